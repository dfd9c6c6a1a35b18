-- A trial, which runs a module once, is a kind of run: same queue, states and worker.
alter table runs add column kind text not null default 'measure'
    check (kind in ('measure', 'verify'));
-- The module as it was returned, and the verdict of its trial.
alter table runs add column module jsonb;
alter table runs add column verdict jsonb;
