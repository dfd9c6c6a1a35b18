-- A database that was made just after the full hour took the hour before for
-- settled, though samples of its last minutes were still to come.

-- Where that hour is still the last one, it is computed when it is over.
do $$
declare
    first timestamptz := (select date_trunc('hour', min(applied_at), 'UTC') from migrations);
    settled timestamptz := date_trunc('hour', now() - interval '10 minutes', 'UTC');
begin
    if (select until from watermark) > settled then
        update watermark set until = settled;
        -- Tables, not aggregates; the extension may be there and not in use.
        if (select relkind from pg_class where oid = 'samples'::regclass) = 'p' then
            delete from hours where hour >= settled;
            delete from days where day >= date_trunc('day', settled, 'UTC');
        end if;
    end if;
    -- Elsewhere it is computed again.
    insert into stale (series, day)
    select id, date_trunc('day', first - interval '1 hour', 'UTC') from series
    on conflict do nothing;
end $$;
