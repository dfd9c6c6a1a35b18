-- A repeated request, whose first answer was lost after acceptance, finds its run.
alter table runs add column idempotency_key text;
create index runs_of_request on runs (account, idempotency_key)
    where idempotency_key is not null;
