-- Name under which the queue counts a run: its account, or the network address of a new account.
-- Empty in rows of earlier versions: the account.
alter table runs add column tenant text not null default '';
-- Finds the runs whose turn is computed every few seconds.
create index runs_in_turn on runs (worker_class, created_at) where state in ('queued', 'running');
create index outbox_of_run on outbox (run_id);
