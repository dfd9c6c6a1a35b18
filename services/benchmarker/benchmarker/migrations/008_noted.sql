-- Whether the webhooks service has confirmed the end of the run. Runs that ended before that
-- service existed are not posted.
alter table runs add column noted boolean not null default true;
alter table runs alter column noted set default false;
create index runs_unnoted on runs (finished_at) where not noted and finished_at is not null;
