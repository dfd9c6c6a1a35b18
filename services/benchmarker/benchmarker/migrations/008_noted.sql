-- Whether the webhooks service has confirmed that the run is over.
-- What ended before there was such a service is not posted any more.
alter table runs add column noted boolean not null default true;
alter table runs alter column noted set default false;
create index runs_unnoted on runs (finished_at) where not noted and finished_at is not null;
