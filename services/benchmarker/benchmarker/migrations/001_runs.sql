-- A run and its results. Only control writes here.
create table runs (
    id text primary key,
    account text not null,
    model_id text not null,
    commit text not null,
    worker_class text not null check (worker_class in ('cpu', 'gpu')),
    work jsonb not null,
    state text not null default 'queued'
        check (state in ('queued', 'running', 'succeeded', 'failed', 'canceled')),
    done integer not null default 0,
    total integer not null,
    -- The message in the queue, and the number of messages published so far.
    sequence bigint,
    published integer not null default 0,
    published_at timestamptz,
    -- The delivery that may report; an earlier one is stopped.
    holder text,
    setup jsonb,
    chosen integer[] not null default '{}',
    results jsonb,
    analysis jsonb,
    error jsonb,
    created_at timestamptz not null default now(),
    started_at timestamptz,
    finished_at timestamptz
);
create index runs_of_account on runs (account, created_at desc, id desc);
create index runs_unfinished on runs (worker_class, created_at)
    where state in ('queued', 'running');
create index runs_of_model on runs (account, model_id, commit, finished_at desc)
    where state = 'succeeded';

-- Timed calls, a block at a time: (round, batch size) is never measured twice.
create table blocks (
    run_id text not null references runs on delete cascade,
    round integer not null,
    batch_size integer not null,
    calls integer not null,
    samples jsonb not null,
    primary key (run_id, round, batch_size)
);

-- Memory of a batch size, or the reason why it has no figures.
create table sizes (
    run_id text not null references runs on delete cascade,
    batch_size integer not null,
    facts jsonb not null,
    primary key (run_id, batch_size)
);

-- Machines as their workers last described them.
create table workers (
    worker text primary key,
    worker_class text not null,
    facts jsonb not null,
    seen_at timestamptz not null default now()
);

-- Figures to be sent to the metrics service; written with the result, deleted once it has them.
create table outbox (
    id bigint generated always as identity primary key,
    account text not null,
    run_id text not null references runs on delete cascade,
    record jsonb not null
);
