create table accounts (
    id text primary key,
    email text not null,
    password text not null,
    created_at timestamptz not null default now()
);
-- One account per address, regardless of capitals.
create unique index accounts_email on accounts (lower(email));

create table keys (
    id text primary key,
    account_id text not null references accounts on delete cascade,
    name text not null,
    prefix text not null,
    -- SHA-256 of the whole key; the key itself is shown once and never stored.
    hash bytea not null unique,
    scopes text[] not null,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);
create index keys_account on keys (account_id, created_at);
