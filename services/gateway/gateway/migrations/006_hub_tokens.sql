-- An account's own token for the Hub, encrypted with the operator's keys (ENCRYPTION_KEYS).
create table hub_tokens (
    account_id text primary key references accounts on delete cascade,
    token bytea not null,
    -- The Hub's last answer about the token.
    hub_user text not null,
    role text not null,
    stored_at timestamptz not null default now(),
    checked_at timestamptz not null default now()
);
