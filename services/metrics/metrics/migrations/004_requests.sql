-- Stored requests, by the digest of their Idempotency-Key. A request that is repeated because its
-- answer was lost is found here, even if its samples have no times of their own to identify them.
create table requests (
    key text primary key,
    stored_at timestamptz not null default now()
);
create index on requests (stored_at);
