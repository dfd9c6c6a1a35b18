-- The digest of the Idempotency-Key of the request that created the key; null without one.
alter table keys add column request text;
