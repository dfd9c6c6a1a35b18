-- When the run's last delivery began to fetch, load, warm and measure, by stage.
alter table runs add column stages jsonb not null default '{}';
