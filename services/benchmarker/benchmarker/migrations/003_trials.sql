-- A module that a worker runs once is a run of its own kind: the same queue, states and worker.
alter table runs add column kind text not null default 'measure'
    check (kind in ('measure', 'verify'));
-- The module as it was handed out, and what came of running it.
alter table runs add column module jsonb;
alter table runs add column verdict jsonb;
