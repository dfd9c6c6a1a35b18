create table idempotency (
    -- SHA-256 of account and key; what is stored below is encrypted with the key itself.
    id bytea primary key,
    -- SHA-256 of the endpoint and the body that the key came with first.
    fingerprint bytea not null,
    -- Who works on it, and until when that is believed without hearing more.
    lease text not null,
    leased_until timestamptz not null,
    created_at timestamptz not null default now(),
    -- Null until there is an answer.
    answer bytea
);
create index idempotency_created on idempotency (created_at);
