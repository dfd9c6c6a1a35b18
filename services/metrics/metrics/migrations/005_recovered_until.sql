-- The time of the newest sample when an incident ended: an earlier peak that another replica
-- evaluates late belongs to that incident.
alter table alerts add column until timestamptz;
-- The last ended incident of each kind.
create index on alerts (account, model, until) where until is not null;
