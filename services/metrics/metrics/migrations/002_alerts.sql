-- The accounts' own rules; the default rules are in the program.
create table rules (
    id text primary key,
    account text not null,
    created_at timestamptz not null default now(),
    rule jsonb not null
);
create index on rules (account, created_at);

-- An incident: at most one is open per rule, model and metric. The values expected at its begin are
-- stored with it, to detect its end. `announced` counts published events: 1 the alert, 2 the
-- recovery as well.
create table alerts (
    number bigint generated always as identity primary key,
    id text not null unique,
    account text not null,
    model text not null,
    metric text,
    rule text not null,
    type text not null,
    severity text not null,
    message text not null,
    recovery text,
    expected jsonb,
    raised_at timestamptz not null default now(),
    recovered_at timestamptz,
    announced smallint not null default 0
);
create unique index alerts_open on alerts (account, model, rule, coalesce(metric, ''))
    where recovered_at is null;
create index on alerts (account, number desc);
-- Alerts stored but not yet published; nearly always empty.
create index on alerts (number) where announced < 1 or (announced < 2 and recovered_at is not null);
