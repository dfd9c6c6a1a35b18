-- How far a run has ever been: what it begins anew on another machine is no progress until then.
alter table runs add column furthest integer not null default 0;
