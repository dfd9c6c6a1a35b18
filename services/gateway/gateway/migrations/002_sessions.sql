-- Whether the account's requests may use v2 without the header of the beta.
alter table accounts add column beta boolean not null default false;

create table sessions (
    -- SHA-256 of the cookie's token; the token itself is never stored.
    hash bytea primary key,
    account_id text not null references accounts on delete cascade,
    created_at timestamptz not null default now(),
    seen_at timestamptz not null default now()
);
create index sessions_created on sessions (created_at);

create table socket_tokens (
    hash bytea primary key,
    account_id text not null references accounts on delete cascade,
    -- A logout deletes the tokens as well.
    session_hash bytea references sessions on delete cascade,
    expires_at timestamptz not null
);
create index socket_tokens_session on socket_tokens (session_hash);
create index socket_tokens_expires on socket_tokens (expires_at);

create table audit (
    id bigint generated always as identity primary key,
    at timestamptz not null default now(),
    act text not null,
    -- Null without a known account; the row stays when the account is deleted.
    account_id text,
    address text not null,
    request_id text not null,
    details jsonb not null
);
create index audit_account on audit (account_id, at);
create index audit_at on audit (at);
