-- Steps done before the run's last delivery began, and the time of that delivery's last step.
alter table runs add column resumed_from integer not null default 0;
alter table runs add column progressed_at timestamptz;
