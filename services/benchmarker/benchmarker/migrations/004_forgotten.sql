-- Finds trials to delete; a sweep looks for them every few seconds.
create index runs_tried on runs (created_at) where kind = 'verify';
