-- Finds ended runs to delete; a sweep looks for them every few seconds.
create index runs_ended on runs (finished_at) where kind = 'measure' and finished_at is not null;
