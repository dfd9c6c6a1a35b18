-- Benchmark runs that anybody may see; the runs themselves are in the benchmarker.
create table published_runs (
    id text primary key,
    account_id text not null references accounts (id) on delete cascade,
    published_at timestamptz not null default now()
);
-- Alerts that somebody has acknowledged; the alerts themselves are in the metrics service.
create table acknowledged_alerts (
    account_id text not null references accounts (id) on delete cascade,
    alert_id text not null,
    at timestamptz not null default now(),
    primary key (account_id, alert_id)
);
