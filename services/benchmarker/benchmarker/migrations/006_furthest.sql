-- Most steps that a run has ever done: repeating steps on another machine is not progress.
alter table runs add column furthest integer not null default 0;
