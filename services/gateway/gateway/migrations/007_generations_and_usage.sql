-- Modules that were returned, and the requests for them.
create table generations (
    id text primary key,
    account_id text not null references accounts on delete cascade,
    kind text not null,
    model text not null,
    commit text not null,
    task text not null,
    digest text not null,
    request jsonb not null,
    verification text,
    created_at timestamptz not null default clock_timestamp(),
    unique (account_id, verification)
);
create index generations_account on generations (account_id, created_at, id);
create index generations_created on generations (created_at);

-- Requests of each key on each day (UTC), by kind.
create table key_usage (
    account_id text not null references accounts on delete cascade,
    key_id text not null,
    day date not null,
    kind text not null,
    requests bigint not null,
    primary key (account_id, day, key_id, kind)
);
create index key_usage_day on key_usage (day);
