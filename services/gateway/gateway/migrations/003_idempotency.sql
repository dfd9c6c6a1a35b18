create table idempotency (
    -- SHA-256 of account and key; the columns below are encrypted with the key itself.
    id bytea primary key,
    -- SHA-256 of the endpoint and the body of the first request with the key.
    fingerprint bytea not null,
    -- The gateway that works on it, and the end of its lease.
    lease text not null,
    leased_until timestamptz not null,
    created_at timestamptz not null default now(),
    -- Null until the answer is stored.
    answer bytea
);
create index idempotency_created on idempotency (created_at);
