-- Null until a link that was mailed to the address was used.
alter table accounts add column confirmed_at timestamptz;

-- Requests for links that have not been sent yet: one per account at a time.
create table reset_requests (
    account_id text primary key references accounts on delete cascade,
    requested_at timestamptz not null default now(),
    due_at timestamptz not null default now(),
    attempts int not null default 1
);

create table resets (
    -- SHA-256 of the link's token; the token itself is never stored.
    hash bytea primary key,
    account_id text not null references accounts on delete cascade,
    expires_at timestamptz not null
);
create index resets_account on resets (account_id);

-- Accounts that are deleted here while other services may still hold their data.
create table deletions (
    account_id text primary key,
    requested_at timestamptz not null default now(),
    due_at timestamptz not null default now(),
    -- Services that have not confirmed yet.
    awaited text[] not null
);
create index deletions_due on deletions (due_at);
