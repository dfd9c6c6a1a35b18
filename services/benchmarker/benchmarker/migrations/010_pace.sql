-- Steps that were done when the run's last delivery began, and when that delivery last did one.
alter table runs add column resumed_from integer not null default 0;
alter table runs add column progressed_at timestamptz;
