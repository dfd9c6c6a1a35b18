"""Hours and days computed ahead of the question, and what is too old let go.

Whichever replica holds the lock does it; the others stand by. Everything
before the watermark has been computed, except for the days named in `stale`,
where something was recorded late: readers compute those from the samples.
So the answer is right at every moment, and this only decides how fast it is.
"""

import asyncio
import time

import psycopg
import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from common.postgres import NOTICE, Connection, Database
from metrics.settings import MetricsSettings

log = structlog.get_logger()

# Late days computed in one transaction.
MOST_DAYS = 32
# Between two rounds, in seconds; when there is more to do, this many times what
# the last one took: recording and answering come first.
PAUSE = 1.0
EASE = 3
STAND_BY = 5.0
RETENTION_EVERY = 3600.0

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
# Hours that ended ten minutes ago are settled: what comes in later is marked as
# late by the writer, who begins to do so after five (writer.MARK_LATE).
NEXT = """
select until, target, date_trunc('day', until, 'UTC'), date_trunc('day', target, 'UTC')
from watermark, date_trunc('hour', now() - interval '10 minutes', 'UTC') as target
"""
# A day is computed again when the first late sample is ten seconds old, so
# that a stream of them is not followed sample by sample.
MARKED = """
select series, day, mark from stale
where since < now() - interval '10 seconds' order by day, series limit %s
"""
UNMARK = """
delete from stale using unnest(%s::integer[], %s::timestamptz[], %s::bigint[])
    as seen(series, day, mark)
where stale.series = seen.series and stale.day = seen.day and stale.mark = seen.mark
"""
# The extension may be in the database and not in use: until `python -m metrics convert`.
SCHEMA = """
select case relkind when 'p' then null else timescale_schema() end
from pg_class where oid = 'samples'::regclass
"""
LOCK = "select pg_try_advisory_lock(hashtext('rollups'), hashtext(current_schema()))"
# Nobody who was away for a week is told what came late meanwhile.
FORGET_LATE = """
delete from late where arrival <
    (extract(epoch from now() - interval '7 days' - '2000-01-01Z'::timestamptz) * 256e6)::bigint
"""
# The gateway takes a key for a new one after a day.
FORGET_REQUESTS = "delete from requests where stored_at < now() - interval '25 hours'"
FORGET = (
    "delete from stale where day < %s",
    "delete from days where day < %s",
    "delete from hours where hour < %s",
    "delete from samples_older where at < %s",
)


class Rollups:
    """On plain PostgreSQL the rollups are tables that are written here."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def advance(self) -> bool:
        """Settle the hours that have ended; whether there were any."""
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
        """Compute late days again; whether there were any."""
        async with self.connection.transaction():
            until, _, day, _ = await self._next()
            marked = await self._marked(MOST_DAYS)
            if not marked:
                return False
            series, days, _ = (list(column) for column in zip(*marked, strict=True))
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
        return True

    async def forget(self, days: int) -> None:
        """Let go of everything that is older, and get ready for the months to come."""
        await self.connection.execute(FORGET_LATE)
        await self.connection.execute(FORGET_REQUESTS)
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
            await self.connection.execute(f"drop table {partition}")
            log.info("samples let go", partition=partition)
        for statement in FORGET:
            await self.connection.execute(statement, [horizon])

    async def _next(self) -> TupleRow:
        row = await (await self.connection.execute(NEXT)).fetchone()
        assert row is not None
        return row

    async def _roll(self, statement: str, spans: str, parameters: list[object]) -> None:
        await self.connection.execute(
            statement.format(spans=spans, aggregates=AGGREGATES), parameters
        )

    async def _marked(self, most: int) -> list[TupleRow]:
        """The oldest days that were marked as late."""
        cursor = await self.connection.execute(MARKED, [most])
        return await cursor.fetchall()

    async def _unmark(self, marked: list[TupleRow]) -> None:
        columns = [list(column) for column in zip(*marked, strict=True)]
        await self.connection.execute(UNMARK, columns)


class TimescaleRollups(Rollups):
    """On TimescaleDB they are continuous aggregates, which are refreshed here.

    Their own policies would do for what is recorded on time. What is recorded
    late stays invisible in an aggregate until it is refreshed, real-time or
    not, so somebody has to know when that was: the same watermark and marks.
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
        """One day at a time, of all series: an aggregate is refreshed by time alone."""
        marked = await self._marked(10_000)
        if not marked:
            return False
        day = marked[0][1]
        marked = [mark for mark in marked if mark[1] == day]
        cursor = await self.connection.execute(
            "select least(%(day)s + interval '24 hours', until),"
            " %(day)s + interval '24 hours' <= until from watermark",
            {"day": day},
        )
        row = await cursor.fetchone()
        assert row is not None
        end, whole = row
        if day < end:
            await self._refresh("hours", day, end)
        if whole:
            await self._refresh("days", day, end)
        await self._unmark(marked)
        return True

    async def _refresh(self, aggregate: str, first: object, last: object) -> None:
        await self.connection.execute(
            f"call {self.schema}.refresh_continuous_aggregate("
            f"'{aggregate}', %s::timestamptz, %s::timestamptz)",
            [first, last],
        )

    async def _forget(self, horizon: object) -> None:
        await self.connection.execute("delete from stale where day < %s", [horizon])
        for relation in ("samples", "hours", "days"):
            await self.connection.execute(
                f"select {self.schema}.drop_chunks('{relation}', %s::timestamptz)", [horizon]
            )


async def of(connection: Connection) -> Rollups:
    """Those of the database that is there."""
    row = await (await connection.execute(SCHEMA)).fetchone()
    assert row is not None
    return Rollups(connection) if row[0] is None else TimescaleRollups(connection, row[0])


async def keep_up(database: Database, settings: MetricsSettings) -> None:
    """Compute and let go, for ever; where another replica does, stand by."""
    while True:
        try:
            async with await AsyncConnection.connect(
                database.url,
                options=f"-c search_path={database.schema} -c client_encoding=utf8 -c timezone=UTC",
                autocommit=True,
                connect_timeout=5,
                **NOTICE,
            ) as connection:
                await _work(connection, settings.retention_days)
        except psycopg.Error as error:
            # The database is away, or the lock on a table was not to be had: later.
            log.warning("rollups interrupted", error=repr(error))
        await asyncio.sleep(STAND_BY)


async def _work(connection: Connection, retention_days: int) -> None:
    await connection.execute("set lock_timeout = '3s'")
    cursor = await connection.execute(LOCK)
    if await cursor.fetchone() != (True,):
        return
    forgotten = float("-inf")
    while True:
        start = time.monotonic()
        # Asked each time: the database may have been converted meanwhile.
        rollups = await of(connection)
        more = await rollups.advance() | await rollups.repair()
        if start - forgotten > RETENTION_EVERY:
            await rollups.forget(retention_days)
            forgotten = start
        await asyncio.sleep(EASE * (time.monotonic() - start) if more else PAUSE)
