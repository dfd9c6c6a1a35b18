-- Ended runs are deleted after a while; looked for every few seconds.
create index runs_ended on runs (finished_at) where kind = 'measure' and finished_at is not null;
