-- An address that an account's events are posted to, and the secret that signs them.
create table webhooks (
    id text primary key,
    account text not null,
    url text not null,
    events text[] not null,
    enabled boolean not null default true,
    disabled_reason text,
    secret text not null,
    -- Also signs until then, so that a receiver may change over in its own time.
    former_secret text,
    former_until timestamptz,
    created_at timestamptz not null default now()
);
create index webhooks_of_account on webhooks (account, created_at, id);

-- An event as it is posted: stored once for all of an account's webhooks.
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
    -- Attempts since it was created or redelivered by hand; determines the next pause.
    tried integer not null default 0,
    next_at timestamptz,
    -- End of the lease of the replica that posts it; if that replica dies, others take over then.
    taken_until timestamptz,
    attempts jsonb not null default '[]',
    created_at timestamptz not null default now(),
    unique (webhook, occurrence)
);
create index deliveries_due on deliveries (next_at) where state = 'pending';
create index deliveries_of_webhook on deliveries (webhook, number desc);
create index deliveries_of_occurrence on deliveries (occurrence);
