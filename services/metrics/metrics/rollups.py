"""Precomputed rollups of hours and days, and retention.

The replica that holds the lock does the work; the others stand by. Everything
before the watermark is rolled up. A day in `stale` lacks what was recorded
late: readers add its staged samples, or read its samples where they changed
(`direct`). So answers are right at every moment, and rollups make them fast.
"""

import asyncio
import time
from datetime import datetime

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from common.contracts.history import MAX_WRITERS
from common.contracts.timestamps import sql_us
from common.postgres import KEEPALIVE, Connection, Database
from metrics.settings import MetricsSettings

log = structlog.get_logger()

# Late days computed in one transaction, and staged samples merged in it, unless one day
# alone has more: a backfill of the same series waits meanwhile.
MAX_DAYS = 32
MAX_MERGED = 50_000
# Pause between two rounds; while there is more to do, a multiple of the last round's duration:
# recording and answering come first.
PAUSE_S = 1.0
ROLLUP_PAUSE_FACTOR = 3
STAND_BY_S = 5.0
MAX_REFRESHES = 60  # attempts, a pause apart
RETENTION_INTERVAL_S = 3600.0

AGGREGATES = """
count(*), sum(value), min(value), max(value), histogram_of(array_agg(log_bin(value)))
"""
# `spans` is a relation (series, first, last).
ROLL_HOURS = """
insert into hours (series, hour, count, total, minimum, maximum, histogram)
select spans.series, h.*
from ({spans}) as spans
cross join lateral (
    select date_trunc('hour', at, 'UTC'), {aggregates} from samples
    where series = spans.series and at >= spans.first and at < spans.last
    group by 1
) as h
"""
ROLL_DAYS = """
insert into days (series, day, hours, histogram)
select spans.series, d.*
from ({spans}) as spans
cross join lateral (
    select date_trunc('day', hour, 'UTC'),
        string_agg(pack_hour(hour, count, total, minimum, maximum), ''::bytea),
        compact_histogram(string_agg(histogram, ''::bytea))
    from hours
    where series = spans.series and hour >= spans.first and hour < spans.last
    group by 1
) as d
"""
ALL_SERIES = "select id as series, %s::timestamptz as first, %s::timestamptz as last from series"
DAYS_OF_SERIES = """
select series, day as first, least(day + interval '24 hours', %s::timestamptz) as last
from unnest(%s::integer[], %s::timestamptz[]) as s(series, day)
"""
HOURS_OF_SERIES = """
select series, hour as first, least(hour + interval '1 hour', %s::timestamptz) as last
from unnest(%s::integer[], %s::timestamptz[]) as s(series, hour)
"""
UNROLL_HOURS = """
delete from hours where series = any(%(series)s)
    and hour >= date_trunc('hour', %(first)s::timestamptz, 'UTC') and hour <= %(last)s
"""
UNROLL_DAYS = """
delete from days where series = any(%(series)s)
    and day >= date_trunc('day', %(first)s::timestamptz, 'UTC') and day <= %(last)s
"""
# Hours that ended ten minutes ago are settled: the writer marks samples as late that
# are over five minutes old (storage.MARK_LATE).
NEXT = """
select until, target, date_trunc('day', until, 'UTC'), date_trunc('day', target, 'UTC')
from watermark, date_trunc('hour', now() - interval '10 minutes', 'UTC') as target
"""
# A day is rolled up again ten seconds after its first late sample, so that a stream
# of late samples does not cause a rollup each; the one that waits longest is the first.
MARKED = """
select series, day, mark, staged from stale
where since < now() - interval '10 seconds' order by since, day, series limit %s
"""
# Nothing is staged for these series until the transaction ends (storage.STAGE_LOCK).
MERGE_LOCK = """
select pg_advisory_xact_lock(hashtext('staged'), lock) from (
    select distinct mod(series, 64) as lock from unnest(%s::integer[]) as s(series) order by 1
) as locks
"""
MARKS = """
select series, day, mark, staged from stale
join unnest(%s::integer[], %s::timestamptz[]) as s(series, day) using (series, day)
"""
MERGE = "select merge_staged(%s::integer[], %s::timestamptz[])"
MERGED = """
update stale set staged = 0, direct = true, since = now()
from unnest(%s::integer[], %s::timestamptz[]) as s(series, day)
where stale.series = s.series and stale.day = s.day
"""
UNMARK = """
delete from stale using unnest(%s::integer[], %s::timestamptz[], %s::bigint[])
    as seen(series, day, mark)
where stale.series = seen.series and stale.day = seen.day and stale.mark = seen.mark
"""
# The extension may be installed but not in use until `python -m metrics convert`.
SCHEMA = """
select case relkind when 'p' then null else timescale_schema() end
from pg_class where oid = 'samples'::regclass
"""
LOCK = "select pg_try_advisory_lock(hashtext('rollups'), hashtext(current_schema()))"
# A listener that was disconnected for over a week does not get late samples of that time.
WEEK_AGO = sql_us("now() - interval '7 days'")
FORGET_LATE = f"delete from late where arrival < {WEEK_AGO} * {MAX_WRITERS}"  # noqa: S608  (constants)
# The gateway considers a key new after a day.
FORGET_REQUESTS = "delete from requests where stored_at < now() - interval '25 hours'"
FORGET_ALERTS = """
delete from alerts where recovered_at < now() - make_interval(hours => 24 * %s)
"""
# Samples that are about to be deleted no longer count for their accounts.
DISCOUNT = """
update usage set samples = greatest(samples - gone.count, 0)
from (
    select account, count(*) as count from {relation} join series on id = series group by account
) as gone where usage.account = gone.account
"""
FORGET = (
    "delete from stale where day < %s",
    "delete from days where day < %s",
    "delete from hours where hour < %s",
    "delete from samples_older where at < %s",
    "delete from staged where at < %s",
)


class Rollups:
    """Rollups on plain PostgreSQL, as tables written by this class."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def advance(self) -> bool:
        """Roll up the hours that have ended; return whether any had."""
        async with self.connection.transaction():
            until, target, day, target_day = await self._next()
            if until >= target:
                return False
            await self._roll(ROLL_HOURS, ALL_SERIES, [until, target])
            if day < target_day:
                await self._roll(ROLL_DAYS, ALL_SERIES, [day, target_day])
            await self.connection.execute("update watermark set until = %s", [target])
        return True

    async def repair(self) -> bool:
        """Merge and roll up days that have late samples; return whether there were any."""
        async with self.connection.transaction():
            until, _, day, _ = await self._next()
            marked = _first_days(await self._marked(MAX_DAYS))
            if not marked:
                return False
            marked = await self._merge(marked)
            series, days, *_ = (list(column) for column in zip(*marked, strict=True))
            await self.connection.execute(
                "delete from hours using unnest(%s::integer[], %s::timestamptz[]) as s(series, day)"
                " where hours.series = s.series"
                " and hour >= s.day and hour < s.day + interval '24 hours'",
                [series, days],
            )
            await self.connection.execute(
                "delete from days using unnest(%s::integer[], %s::timestamptz[]) as s(series, day)"
                " where days.series = s.series and days.day = s.day",
                [series, days],
            )
            await self._roll(ROLL_HOURS, DAYS_OF_SERIES, [until, series, days])
            await self._roll(ROLL_DAYS, DAYS_OF_SERIES, [day, series, days])
            await self._unmark(marked)
            # A day that was marked again meanwhile stays marked, with nothing staged.
            await self.connection.execute(MERGED, [series, days])
        return True

    async def mend(self, series: list[int], first: datetime, last: datetime) -> None:
        """Repair the rollups after the deletion of all samples from `first` to `last`.

        Only the hours and days of these two have samples left.
        """
        until, _, day, _ = await self._next()
        spans = {"series": series, "first": first, "last": last}
        hours = [moment.replace(minute=0, second=0, microsecond=0) for moment in (first, last)]
        await self.connection.execute(UNROLL_HOURS, spans)
        await self._roll(ROLL_HOURS, HOURS_OF_SERIES, [until, *_pairs(series, hours)])
        await self.connection.execute(UNROLL_DAYS, spans)
        days = [hour.replace(hour=0) for hour in hours]
        await self._roll(ROLL_DAYS, DAYS_OF_SERIES, [day, *_pairs(series, days)])

    async def _merge(self, marked: list[TupleRow]) -> list[TupleRow]:
        """Merge the staged samples of marked days; return the current marks of these days."""
        series, days, *_ = (list(column) for column in zip(*marked, strict=True))
        await self.connection.execute(MERGE_LOCK, [series])
        cursor = await self.connection.execute(MARKS, [series, days])
        marked = await cursor.fetchall()
        if any(staged for *_, staged in marked):
            await self.connection.execute(MERGE, [series, days])
        return marked

    async def forget(self, days: int, alert_days: int = 400) -> None:
        """Delete expired samples and alerts, and create partitions for coming months."""
        await self.connection.execute(FORGET_LATE)
        await self.connection.execute(FORGET_REQUESTS)
        await self.connection.execute(FORGET_ALERTS, [alert_days])
        cursor = await self.connection.execute(
            "select date_trunc('day', now(), 'UTC') - make_interval(hours => 24 * %s)", [days]
        )
        row = await cursor.fetchone()
        assert row is not None
        await self._forget(row[0])

    async def _forget(self, horizon: object) -> None:
        await self.connection.execute(
            "select create_partitions(now(), now() + interval '2 months')"
        )
        cursor = await self.connection.execute(
            "select quote_ident(relname) from pg_inherits join pg_class c on c.oid = inhrelid"
            " where inhparent = 'samples'::regclass and relname ~ '^samples_[0-9]{6}$'"
            " and to_date(right(relname, 6), 'YYYYMM') + interval '1 month' <= %s::timestamptz",
            [horizon],
        )
        for (partition,) in await cursor.fetchall():
            await self._drop(partition)
        for statement in FORGET:
            await self.connection.execute(statement, [horizon])

    async def _drop(self, partition: str) -> None:
        async with self.connection.transaction():
            await self.connection.execute(DISCOUNT.format(relation=partition))
            await self.connection.execute(f"drop table {partition}")
        log.info("expired samples deleted", partition=partition)

    async def _next(self) -> TupleRow:
        [row] = await (await self.connection.execute(NEXT)).fetchall()
        return row

    async def _roll(self, statement: str, spans: str, parameters: list[object]) -> None:
        await self.connection.execute(
            statement.format(spans=spans, aggregates=AGGREGATES), parameters
        )

    async def _marked(self, max_days: int) -> list[TupleRow]:
        """Return the days that have been marked as stale for longest, as rows of `stale`."""
        cursor = await self.connection.execute(MARKED, [max_days])
        return await cursor.fetchall()

    async def _unmark(self, marked: list[TupleRow]) -> None:
        series, days, marks, _ = (list(column) for column in zip(*marked, strict=True))
        await self.connection.execute(UNMARK, [series, days, marks])


class TimescaleRollups(Rollups):
    """Rollups on TimescaleDB, as continuous aggregates refreshed by this class.

    TimescaleDB's policies would do for samples recorded on time. Late ones stay
    invisible in an aggregate until it is refreshed, real-time or not, so the
    same watermark and marks decide when that is.
    """

    def __init__(self, connection: Connection, schema: str) -> None:
        super().__init__(connection)
        self.schema = schema

    async def advance(self) -> bool:
        until, target, day, target_day = await self._next()
        if until >= target:
            return False
        await self._refresh("hours", until, target)
        if day < target_day:
            await self._refresh("days", day, target_day)
        await self.connection.execute("update watermark set until = %s", [target])
        return True

    async def repair(self) -> bool:
        """Repair one day of all series, since an aggregate cannot be refreshed for one series."""
        marked = await self._marked(10_000)
        if not marked:
            return False
        day = marked[0][1]
        marked = [mark for mark in marked if mark[1] == day]
        async with self.connection.transaction():
            marked = await self._merge(marked)
            # Read from the samples until the aggregates are refreshed.
            await self.connection.execute(MERGED, [[series for series, *_ in marked],
                                                   [day] * len(marked)])  # fmt: skip
        cursor = await self.connection.execute(
            "select least(%(day)s + interval '24 hours', until),"
            " %(day)s + interval '24 hours' <= until from watermark",
            {"day": day},
        )
        row = await cursor.fetchone()
        assert row is not None
        end, whole_day = row
        if day < end:
            await self._refresh("hours", day, end)
        if whole_day:
            await self._refresh("days", day, end)
        await self._unmark(marked)
        return True

    async def mend(self, series: list[int], first: datetime, last: datetime) -> None:
        """Do nothing: marked days are refreshed later, outside the transaction."""

    async def _refresh(self, aggregate: str, first: object, last: object) -> None:
        statement = (
            f"call {self.schema}.refresh_continuous_aggregate("
            f"'{aggregate}', %s::timestamptz, %s::timestamptz)"
        )
        for left in reversed(range(MAX_REFRESHES)):
            try:
                await self.connection.execute(statement, [first, last])
                break
            except psycopg.errors.LockNotAvailable:  # a policy refreshes the same days just now
                if not left:
                    raise
            await asyncio.sleep(PAUSE_S)

    async def _forget(self, horizon: object) -> None:
        await self.connection.execute("delete from stale where day < %s", [horizon])
        await self.connection.execute("delete from staged where at < %s", [horizon])
        chunks = await self.connection.execute(
            f"select {self.schema}.show_chunks('samples', %s::timestamptz)::text", [horizon]
        )
        for (chunk,) in await chunks.fetchall():
            await self.connection.execute(DISCOUNT.format(relation=chunk))
        for relation in ("samples", "hours", "days"):
            await self.connection.execute(
                f"select {self.schema}.drop_chunks('{relation}', %s::timestamptz)", [horizon]
            )


def _pairs(series: list[int], moments: list[datetime]) -> list[list[object]]:
    """Combine each series with each distinct moment, as two columns."""
    pairs = [(number, moment) for number in series for moment in sorted({*moments})]
    return [list(column) for column in zip(*pairs, strict=True)]


def _first_days(marked: list[TupleRow]) -> list[TupleRow]:
    """Return as many of the first days as one transaction merges, by their staged samples."""
    total = 0
    for number, (*_, staged) in enumerate(marked):
        total += staged
        if total > MAX_MERGED:
            return marked[: number + 1]
    return marked


async def load(connection: Connection) -> Rollups:
    """Return the kind of rollups that this database has."""
    row = await (await connection.execute(SCHEMA)).fetchone()
    assert row is not None
    return Rollups(connection) if row[0] is None else TimescaleRollups(connection, row[0])


async def keep_up(database: Database, settings: MetricsSettings) -> None:
    """Roll up and expire samples until cancelled; stand by while another replica does so."""
    while True:
        try:
            async with await AsyncConnection.connect(
                database.url,
                options=f"-c search_path={database.schema} -c client_encoding=utf8 -c timezone=UTC",
                autocommit=True,
                connect_timeout=5,
                **KEEPALIVE,
            ) as connection:
                await _work(connection, settings)
        except psycopg.Error as error:
            # The database is unavailable, or a lock was not granted in time.
            log.warning("rollups interrupted", error=repr(error))
        await asyncio.sleep(STAND_BY_S)


async def _work(connection: Connection, settings: MetricsSettings) -> None:
    await connection.execute("set lock_timeout = '3s'")
    cursor = await connection.execute(LOCK)
    if await cursor.fetchone() != (True,):
        return
    forgotten = float("-inf")
    while True:
        start = time.monotonic()
        # Looked up each time: the database may have been converted meanwhile.
        rollups = await load(connection)
        more = await rollups.advance() | await rollups.repair()
        if start - forgotten > RETENTION_INTERVAL_S:
            await rollups.forget(settings.retention_days, settings.alert_retention_days)
            forgotten = start
        await asyncio.sleep(ROLLUP_PAUSE_FACTOR * (time.monotonic() - start) if more else PAUSE_S)
