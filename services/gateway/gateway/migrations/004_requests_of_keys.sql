-- The digest of the Idempotency-Key that the key was made with; null where there was none.
alter table keys add column request text;
