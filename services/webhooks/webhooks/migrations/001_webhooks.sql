-- Where an account wants to be told, and what signs it.
create table webhooks (
    id text primary key,
    account text not null,
    url text not null,
    events text[] not null,
    enabled boolean not null default true,
    disabled_reason text,
    secret text not null,
    -- Signs as well until then, so that a receiver may change over in its own time.
    former_secret text,
    former_until timestamptz,
    created_at timestamptz not null default now()
);
create index webhooks_of_account on webhooks (account, created_at, id);

-- What happened, as it is posted: once for all of an account's webhooks.
create table occurrences (
    id text primary key,
    account text not null,
    type text not null,
    body text not null,
    at timestamptz not null default now()
);
create index occurrences_by_age on occurrences (at);

create table deliveries (
    number bigint generated always as identity primary key,
    webhook text not null references webhooks on delete cascade,
    occurrence text not null references occurrences on delete cascade,
    account text not null,
    state text not null default 'pending' check (state in ('pending', 'succeeded', 'failed')),
    -- Attempts since it was made or redelivered by hand; says how long the next pause is.
    tried integer not null default 0,
    next_at timestamptz,
    -- The replica that posts it now; when it dies, the others take it from then on.
    taken_until timestamptz,
    attempts jsonb not null default '[]',
    created_at timestamptz not null default now(),
    unique (webhook, occurrence)
);
create index deliveries_due on deliveries (next_at) where state = 'pending';
create index deliveries_of_webhook on deliveries (webhook, number desc);
create index deliveries_of_occurrence on deliveries (occurrence);
