-- The time of the newest sample when an incident was over: a peak before it,
-- of which another replica is late to think, belongs to that incident.
alter table alerts add column until timestamptz;
-- The last one that was over of each kind.
create index on alerts (account, model, until) where until is not null;
