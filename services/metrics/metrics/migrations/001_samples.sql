-- Samples and everything computed from them. The relations have the same names and columns on plain
-- PostgreSQL and on TimescaleDB; create_storage() creates them for whichever of the two is present.

create table series (
    id integer generated always as identity primary key,
    account text not null,
    model text not null,
    metric text not null,
    unique (account, model, metric)
);

-- Logarithmic bins of 1 %: the middle of a bin is within 0.5 % of each value
-- in it. Positive and negative values have bins of their own sign, zero is 0;
-- the offset keeps the sign of the exponent out of the way.
create function log_bin(value double precision) returns integer
    language sql immutable strict parallel safe
    return case
        when value > 0 then 100000 + ceil(ln(value) / ln(1.01::double precision))::integer
        when value < 0 then -(100000 + ceil(ln(-value) / ln(1.01::double precision))::integer)
        else 0
    end;

-- A histogram is bytes: for each bin its number and its count, as int4. Concatenation adds
-- histograms.
create function histogram_of(bins integer[]) returns bytea
    language sql immutable strict parallel safe
    return (
        select string_agg(int4send(bin) || int4send(count), ''::bytea)
        from (select bin, count(*)::integer as count from unnest(bins) as bin group by bin) as b
    );

-- The same histogram with one entry for each bin. The bins stay bytes; only counts are parsed.
create function compact_histogram(histogram bytea) returns bytea
    language sql immutable strict parallel safe
    return (
        select string_agg(bin || int4send(count), ''::bytea)
        from (
            select
                substring(histogram from o for 4) as bin,
                sum(
                    (get_byte(histogram, o + 3) << 24) | (get_byte(histogram, o + 4) << 16)
                    | (get_byte(histogram, o + 5) << 8) | get_byte(histogram, o + 6)
                )::integer as count
            from generate_series(1, length(histogram), 8) as o
            group by 1
        ) as b
    );

-- An hour as 40 bytes: time, count, total, minimum, maximum.
create function pack_hour(
    hour timestamptz, count bigint, total double precision,
    minimum double precision, maximum double precision
) returns bytea
    language sql immutable strict parallel safe
    return timestamptz_send(hour) || int8send(count)
        || float8send(total) || float8send(minimum) || float8send(maximum);

-- Rollups of times before `until` are right, except for the days of a series that are listed in
-- `stale`: late samples were recorded there. A day is rolled up again and removed from the list if
-- its mark has not changed meanwhile.
create table watermark (until timestamptz not null);
insert into watermark values (date_trunc('hour', now(), 'UTC'));

create sequence marks;
create table stale (
    series integer not null,
    day timestamptz not null,
    mark bigint not null default nextval('marks'),
    since timestamptz not null default now(),
    primary key (series, day)
);

-- Creates the missing partitions for the months from `first` to `last`.
create function create_partitions(first timestamptz, last timestamptz) returns void
    language plpgsql as $$
declare
    month timestamp := date_trunc('month', first at time zone 'UTC');
begin
    while month <= last at time zone 'UTC' loop
        if to_regclass('samples_' || to_char(month, 'YYYYMM')) is null then
            execute format(
                'create table %I partition of samples for values from (%L) to (%L)',
                'samples_' || to_char(month, 'YYYYMM'),
                month at time zone 'UTC', (month + interval '1 month') at time zone 'UTC'
            );
        end if;
        month := month + interval '1 month';
    end loop;
end $$;

-- Returns the schema of TimescaleDB's functions, or null on plain PostgreSQL.
create function timescale_schema() returns text
    language sql stable
    return (
        select quote_ident(n.nspname) from pg_extension e
        join pg_namespace n on n.oid = e.extnamespace where e.extname = 'timescaledb'
    );

create function create_storage() returns void
    language plpgsql as $$
declare
    timescale text := timescale_schema();
begin
    -- The edition under the Apache licence has neither columnstore nor aggregates.
    if timescale is null or current_setting('timescaledb.license', true) = 'apache' then
        create table samples (
            series integer not null,
            at timestamptz not null,
            value double precision not null,
            primary key (series, at)
        ) partition by range (at);
        -- Times outside every month's partition: only older ones than retention keeps.
        create table samples_older partition of samples default;
        perform create_partitions(now() - interval '13 months', now() + interval '2 months');
        create table hours (
            series integer not null,
            hour timestamptz not null,
            count bigint not null,
            total double precision not null,
            minimum double precision not null,
            maximum double precision not null,
            histogram bytea not null,
            primary key (series, hour)
        );
        create table days (
            series integer not null,
            day timestamptz not null,
            hours bytea not null,
            histogram bytea not null,
            primary key (series, day)
        );
    else
        -- The columnstore is ordered as it is queried: one series, by time.
        create table samples (
            series integer not null,
            at timestamptz not null,
            value double precision not null,
            primary key (series, at)
        ) with (
            tsdb.hypertable, tsdb.partition_column = 'at', tsdb.chunk_interval = '7 days',
            tsdb.segmentby = 'series', tsdb.orderby = 'at',
            -- All queries use the primary key; another index would only cost.
            tsdb.create_default_indexes = false
        );
        execute format($sql$
            create materialized view hours
            with (timescaledb.continuous, timescaledb.materialized_only = false) as
            select series, %1$s.time_bucket('1 hour'::interval, at) as hour, count(*) as count,
                sum(value) as total, min(value) as minimum, max(value) as maximum,
                histogram_of(array_agg(log_bin(value))) as histogram
            from samples group by 1, 2 with no data
        $sql$, timescale);
        execute format($sql$
            create materialized view days
            with (timescaledb.continuous, timescaledb.materialized_only = false) as
            select series, %1$s.time_bucket('1 day'::interval, hour) as day,
                string_agg(pack_hour(hour, count, total, minimum, maximum), ''::bytea) as hours,
                compact_histogram(string_agg(histogram, ''::bytea)) as histogram
            from hours group by 1, 2 with no data
        $sql$, timescale);
    end if;
end $$;

-- Uses the extension if it is installed or can be created. Creating it where it is not preloaded
-- would end the connection, which no block survives; a preloaded one has its settings.
do $$
begin
    if exists (select from pg_available_extensions where name = 'timescaledb')
        and current_setting('timescaledb.max_background_workers', true) is not null then
        create extension if not exists timescaledb;
    end if;
exception when others then
    raise notice 'TimescaleDB is not used: %', sqlerrm;
end $$;

select create_storage();
