-- Deliveries in a row that ended without a word and without progress: so poison is known.
alter table runs add column lost integer not null default 0;
