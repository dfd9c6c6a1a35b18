-- A database created just after the full hour regarded the hour before as settled, although samples
-- of its last minutes could still arrive.

-- If that hour is still the last one, it is rolled up when it is settled.
do $$
declare
    first timestamptz := (select date_trunc('hour', min(applied_at), 'UTC') from migrations);
    settled timestamptz := date_trunc('hour', now() - interval '10 minutes', 'UTC');
begin
    if (select until from watermark) > settled then
        update watermark set until = settled;
        -- Tables, not aggregates: the extension may be installed but not in use.
        if (select relkind from pg_class where oid = 'samples'::regclass) = 'p' then
            delete from hours where hour >= settled;
            delete from days where day >= date_trunc('day', settled, 'UTC');
        end if;
    end if;
    -- Otherwise it is rolled up again.
    insert into stale (series, day)
    select id, date_trunc('day', first - interval '1 hour', 'UTC') from series
    on conflict do nothing;
end $$;
