-- Modules that were tried are forgotten after a while; looked for every few seconds.
create index runs_tried on runs (created_at) where kind = 'verify';
