-- Which requests were stored, by the digest of the Idempotency-Key that they
-- came with. Who sends one again because the answer got lost finds it here,
-- also where the samples have no times of their own to tell them apart by.
create table requests (
    key text primary key,
    stored_at timestamptz not null default now()
);
create index on requests (stored_at);
