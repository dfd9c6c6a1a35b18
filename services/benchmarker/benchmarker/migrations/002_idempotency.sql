-- A request that comes again, after the first was accepted and its answer lost, finds its run.
alter table runs add column idempotency_key text;
create index runs_of_request on runs (account, idempotency_key)
    where idempotency_key is not null;
