-- Consecutive deliveries that ended without a report or progress, by which poison is detected.
alter table runs add column lost integer not null default 0;
