-- TimescaleDB's own policies: hours in the columnstore, aggregates without times that are not
-- rolled up yet (readers use the samples there), and refreshes that continue while no metrics
-- service runs.
create function tune_storage() returns void
    language plpgsql as $$
declare
    timescale text := timescale_schema();
    version text := (select extversion from pg_extension where extname = 'timescaledb');
begin
    if timescale is null or (select relkind from pg_class where oid = 'samples'::regclass) = 'p' then
        return;
    end if;
    -- Older ones leave a hypertable made by CREATE TABLE uncompressed.
    if (string_to_array(substring(version from '^\d+\.\d+'), '.'))::integer[] < array[2, 23] then
        raise exception 'TimescaleDB % is too old: install 2.23 or newer, then'
            ' ALTER EXTENSION timescaledb UPDATE', version;
    end if;
    alter materialized view hours set (timescaledb.materialized_only = true);
    alter materialized view days set (timescaledb.materialized_only = true);
    alter materialized view hours set (
        timescaledb.enable_columnstore = true,
        timescaledb.segmentby = 'series', timescaledb.orderby = 'hour'
    );
    execute format($sql$ select %1$s.add_continuous_aggregate_policy(
        'hours', interval '3 days', interval '1 hour', interval '1 hour', if_not_exists => true
    ) $sql$, timescale);
    execute format($sql$ select %1$s.add_continuous_aggregate_policy(
        'days', interval '5 days', interval '1 day', interval '6 hours', if_not_exists => true
    ) $sql$, timescale);
    -- Compressed once nearly all late samples have arrived.
    execute format($sql$ call %1$s.add_columnstore_policy(
        'hours', after => interval '30 days', if_not_exists => true
    ) $sql$, timescale);
end $$;

alter function create_storage() rename to create_storage_untuned;
create function create_storage() returns void
    language plpgsql as $$
begin
    perform create_storage_untuned();
    perform tune_storage();
end $$;

select tune_storage();
