-- Null until a link that was sent to the address was used.
alter table accounts add column confirmed_at timestamptz;

-- Links that were asked for and are not made yet: one of an account at a time.
create table reset_requests (
    account_id text primary key references accounts on delete cascade,
    requested_at timestamptz not null default now(),
    due_at timestamptz not null default now(),
    attempts int not null default 1
);

create table resets (
    -- SHA-256 of the link's token; the token itself is stored nowhere.
    hash bytea primary key,
    account_id text not null references accounts on delete cascade,
    expires_at timestamptz not null
);
create index resets_account on resets (account_id);

-- Accounts that were deleted here and of which other services may still hold something.
create table deletions (
    account_id text primary key,
    requested_at timestamptz not null default now(),
    due_at timestamptz not null default now(),
    -- Services that have not confirmed yet.
    awaited text[] not null
);
create index deletions_due on deletions (due_at);
