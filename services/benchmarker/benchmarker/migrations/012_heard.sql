-- The last report of the delivery that holds a run; heartbeats count.
alter table runs add column heard_at timestamptz;
