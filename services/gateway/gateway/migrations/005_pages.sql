-- Benchmark runs that anybody may look at; the runs themselves are the benchmarker's.
create table published_runs (
    id text primary key,
    account_id text not null references accounts (id) on delete cascade,
    published_at timestamptz not null default now()
);
-- Alerts that somebody has seen; the alerts themselves are the metrics service's.
create table acknowledged_alerts (
    account_id text not null references accounts (id) on delete cascade,
    alert_id text not null,
    at timestamptz not null default now(),
    primary key (account_id, alert_id)
);
