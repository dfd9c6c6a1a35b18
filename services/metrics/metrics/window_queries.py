"""The queries by which `metrics.window` reads series."""

STATE = """
select until, stale.series, stale.day, stale.direct, stale.staged
from watermark left join stale on stale.series = any(%s::integer[]) and stale.day > %s
"""
# Counts the samples of late days, newest first, and no further than one answer can read.
READABLE = """
with recursive late as (
    select series, day, row_number() over (partition by series order by day desc) as place
    from unnest(%(series)s::integer[], %(days)s::timestamptz[]) as late(series, day)
), counted as (
    select series, 0::bigint as place, null::timestamptz as day, 0::bigint as total
    from late where place = 1
    union all
    select late.series, late.place, late.day, counted.total + found.count
    from counted join late on late.series = counted.series and late.place = counted.place + 1
    cross join lateral (
        select count(*) as count from (
            select from samples
            where samples.series = late.series
                and at >= late.day and at < late.day + interval '24 hours'
            limit %(most)s
        ) as samples_of_day
    ) as found
    where counted.total < %(most)s
)
select series, day from counted where place > 0 and total < %(most)s
"""
# The hours before the first whole day and those after the last are two parts: with `or`, the index
# would be read over all days between them.
READ = """
with raw as (
    select * from unnest(%(series)s::integer[], %(firsts)s::timestamptz[],
        %(lasts)s::timestamptz[]) with ordinality as spans(series, first, last, number)
), waiting as (
    select * from unnest(%(staged)s::integer[], %(staged_firsts)s::timestamptz[],
        %(staged_lasts)s::timestamptz[]) as spans(series, first, last)
), late as (
    select * from unnest(%(late)s::integer[], %(late_days)s::timestamptz[]) as late(series, day)
)
select series, string_agg(hours, ''::bytea), string_agg(histogram, ''::bytea),
    string_agg(samples, ''::bytea),
    array_agg(number) filter (where count >= %(most)s),
    array_agg(oldest) filter (where count >= %(most)s)
from (
    select raw.series, null::bytea as hours, null::bytea as histogram, s.samples, s.count, s.oldest,
        raw.number
    from raw cross join lateral (
        select string_agg(timestamptz_send(at) || float8send(value), ''::bytea) as samples,
            count(*) as count, min(at) as oldest
        from (
            select at, value from samples
            where series = raw.series and at >= raw.first and at < raw.last
            order by at desc limit %(most)s
        ) as newest
    ) as s
    where s.samples is not null
    union all
    select waiting.series, null, null, s.samples, 0, null::timestamptz, null::bigint
    from waiting cross join lateral (
        select string_agg(timestamptz_send(at) || float8send(value), ''::bytea) as samples
        from staged where series = waiting.series and at >= waiting.first and at < waiting.last
    ) as s
    where s.samples is not null
    union all
    select series, pack_hour(hour, count, total, minimum, maximum), histogram, null, 0, null, null
    from hours
    where series = any(%(ids)s::integer[])
    and hour >= %(hour)s and hour < least(%(day)s, %(until)s)
    and (series, date_trunc('day', hour, 'UTC')) not in (select series, day from late)
    union all
    select series, pack_hour(hour, count, total, minimum, maximum), histogram, null, 0, null, null
    from hours
    where series = any(%(ids)s::integer[])
    and hour >= greatest(%(day)s, %(until_day)s) and hour < %(until)s
    and (series, date_trunc('day', hour, 'UTC')) not in (select series, day from late)
    union all
    select series, hours, histogram, null, 0, null, null from days
    where series = any(%(ids)s::integer[]) and day >= %(day)s and day < %(until_day)s
    and (series, day) not in (select series, day from late)
) as parts group by series
"""
READ_SAMPLES = """
select series, string_agg(timestamptz_send(at) || float8send(value), ''::bytea)
from recorded where series = any(%s::integer[]) and at >= %s group by series
"""
READ_SPANS = """
select series, string_agg(timestamptz_send(at) || float8send(value), ''::bytea)
from (
    select distinct found.series, at, value
    from unnest(%s::integer[], %s::timestamptz[], %s::timestamptz[]) as spans(series, first, last)
    cross join lateral (
        select series, at, value from recorded
        where series = spans.series and at >= first and at < last
        order by at limit %s
    ) as found
) as found group by series
"""
# Reads the narrowest buckets that yield no more points than a plot has.
READ_FINE = """
select asked.series, width,
    string_agg(pack_hour(fine.at, count, total, minimum, maximum), ''::bytea)
from unnest(%(series)s::integer[]) as asked(series)
cross join lateral (
    select extract(epoch from max(at) - min(at)) as seconds
    from recorded where series = asked.series and at >= %(since)s
) as span
cross join lateral (
    select min(width) as width from unnest(%(widths)s::integer[]) as w(width)
    where seconds / width < %(most)s - 1
) as chosen
cross join lateral (
    select date_bin(make_interval(secs => width), at, '2000-01-01Z') as at, count(*) as count,
        sum(value) as total, min(value) as minimum, max(value) as maximum
    from recorded where series = asked.series and at >= %(since)s group by 1
) as fine
group by asked.series, width
"""
