"""Group commit: what arrives while one transaction is under way goes into the next.

Each row is stored once: the same (series, time) again, in the same group or
years later, changes nothing. Rows are sorted, so that two transactions that
bring the same ones wait for each other and never deadlock.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import psycopg
import structlog

from common.contracts.monitoring import EPOCH
from common.errors import ServiceError, Unavailable
from common.postgres import Connection, Database
from metrics.arrays import Floats, Ints, Times, accept_arrays

log = structlog.get_logger()

# Rows in one transaction, unless one call alone brings more.
MOST_ROWS = 20_000
# Rows that wait; beyond it callers are turned away: about a second's work.
MOST_WAITING = 200_000
# A transaction that takes longer is given up, in seconds. The rollups rely on
# it: they leave samples of the last minutes alone.
PATIENCE = 5.0
DAY = 86_400_000_000

# A row as COPY has it in binary: how many fields, then the length of each and the field.
COLUMNS = {"series": ">i4", "at": ">i8", "value": ">f8", "arrival": ">i8"}
ROW = np.dtype(
    [("fields", ">i2")]
    + [part for name, kind in COLUMNS.items() for part in ((f"{name} bytes", ">i4"), (name, kind))]
)
COPY = f"copy samples ({', '.join(COLUMNS)}) from stdin (format binary)".encode()
COPY_HEAD, COPY_TAIL = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
INSERT = """
insert into samples (series, at, value, arrival)
select series, at, value, %b::bigint from unnest(%b, %b, %b) as s(series, at, value)
on conflict do nothing
"""
RETURNING = " returning series, (extract(epoch from at - '2000-01-01Z') * 1e6)::bigint"
# The rollups take everything older than ten minutes as settled (rollups.NEXT).
MARK_LATE = """
insert into stale (series, day)
select series, date_trunc('day', at, 'UTC') from unnest(%b, %b) as s(series, at)
where at < now() - interval '5 minutes'
on conflict (series, day) do update set mark = excluded.mark
"""
# The services' clocks may differ from the database's by the rest of those five minutes.
PERHAPS_LATE = 60_000_000
# Where what arrived late is found again; by transaction, so that many together are one row.
NOTE_LATE = """
insert into late (series, arrival, first, last)
select series, %b::bigint, first, last from unnest(%b, %b, %b) as s(series, first, last)
"""
# In order, so that two transactions that bring the same ones do not deadlock.
FIRST_TIME = """
insert into requests (key) select unnest(%s::text[]) on conflict do nothing returning key
"""
NUMBER = "select nextval('writers')"


@dataclass(slots=True)
class Rows:
    """Samples to store. `timed` is False where the service itself chose the time."""

    series: Ints
    at: Times
    value: Floats
    timed: bool = True

    def __len__(self) -> int:
        return len(self.series)


@dataclass(slots=True)
class Waiting:
    """A call: all of its rows are stored, or none."""

    rows: list[Rows]
    done: asyncio.Future[None]
    then: Callable[[int], None]
    key: str

    def __len__(self) -> int:
        return sum(map(len, self.rows))


def now() -> int:
    """Microseconds since 2000."""
    return time.time_ns() // 1000 - int(EPOCH.timestamp()) * 1_000_000


class Writer:
    def __init__(self, database: Database) -> None:
        self.database = database
        self._queue: deque[Waiting] = deque()
        self._rows = 0
        self._filled = asyncio.Event()
        self._number = 0
        self._last = 0

    async def write(self, rows: list[Rows], then: Callable[[int], None], key: str = "") -> None:
        """Returns when the rows are committed; those of one `key` are stored once.

        `then` is called with their arrival even if nobody waits any more, in
        the order of arrivals.

        Raises:
            Unavailable: the database is away, slow or full, or too much waits already.
        """
        if self._rows > MOST_WAITING:
            raise Unavailable("too much waits to be stored", retry_after=1)
        done = asyncio.get_running_loop().create_future()
        waiting = Waiting(rows, done, then, key)
        self._queue.append(waiting)
        self._rows += len(waiting)
        self._filled.set()
        await done

    async def run(self) -> None:
        while True:
            await self._filled.wait()
            self._filled.clear()
            try:
                # Kept as long as more comes: checking it again would cost a fifth of a commit.
                async with self.database.connection() as connection, _committing(connection):
                    self._number = self._number or await _number(connection)
                    while group := self._take():
                        await self._commit(connection, group)
            except ServiceError as error:
                # No connection, or it broke; `_commit` has answered its group.
                log.warning("not stored", error=error.message)
                self._forget_those_who_left()

    def _take(self) -> list[Waiting]:
        group: list[Waiting] = []
        rows = 0
        while self._queue and (not group or rows + len(self._queue[0]) <= MOST_ROWS):
            waiting = self._queue.popleft()
            self._rows -= len(waiting)
            if waiting.done.cancelled():
                continue  # the caller has been told that it took too long
            rows += len(waiting)
            group.append(waiting)
        return group

    def _forget_those_who_left(self) -> None:
        """They were told that it took too long."""
        self._queue = deque(waiting for waiting in self._queue if not waiting.done.cancelled())
        self._rows = sum(map(len, self._queue))
        if self._queue:
            self._filled.set()

    async def _commit(self, connection: Connection, group: list[Waiting]) -> None:
        self._last = max(now(), self._last + 1)
        arrival = self._last * 256 + self._number
        try:
            async with asyncio.timeout(PATIENCE):
                await _store(connection, group, arrival)
        except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError) as error:
            _fail(group, Unavailable("the database is busy or away", retry_after=1))
            raise psycopg.OperationalError(str(error)) from error
        except Exception:
            if len(group) > 1:
                # Whoever it was, the others are not to suffer for it.
                for waiting in group:
                    await self._commit(connection, [waiting])
            else:
                log.exception("rows were refused")
                _fail(group, ServiceError("internal error"))
        else:
            for waiting in group:
                waiting.then(arrival)
                if not waiting.done.done():
                    waiting.done.set_result(None)


def _fail(group: list[Waiting], error: ServiceError) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(error)


@asynccontextmanager
async def _committing(connection: Connection) -> AsyncIterator[None]:
    """Each statement is committed with its answer, which spares two ways to the server."""
    accept_arrays(connection)
    await connection.set_autocommit(True)
    try:
        yield
    finally:
        if not connection.broken:
            await connection.set_autocommit(False)


async def _number(connection: Connection) -> int:
    """This writer's, which the samples' arrivals end with."""
    row = await (await connection.execute(NUMBER)).fetchone()
    assert row is not None
    number: int = row[0]
    return number


async def _store(connection: Connection, group: list[Waiting], arrival: int) -> None:
    keys = sorted({waiting.key for waiting in group} - {""})
    if not keys:
        await _store_all(connection, [rows for waiting in group for rows in waiting.rows], arrival)
        return
    async with connection.transaction():
        cursor = await connection.execute(FIRST_TIME, [keys])
        first = {key for (key,) in await cursor.fetchall()}
        new: list[Rows] = []
        for waiting in group:
            if not waiting.key or waiting.key in first:
                new += waiting.rows
                first.discard(waiting.key)
        await _store_new(connection, new, arrival)


async def _store_all(connection: Connection, group: list[Rows], arrival: int) -> None:
    """By COPY, which takes half as long as what leaves out the rows that are there already.

    It knows only all or nothing, so where one is there, the other way is gone.
    """
    series, at, value = _sorted(group)
    late = _days(series, at)
    try:
        if not len(late[0]):
            await _copy(connection, series, at, value, arrival)
        else:
            async with connection.transaction():
                await _copy(connection, series, at, value, arrival)
                await _note_late(connection, late, series, at, arrival)
    except psycopg.errors.UniqueViolation:
        async with connection.transaction():
            await _store_new(connection, group, arrival)


async def _copy(
    connection: Connection, series: Ints, at: Times, value: Floats, arrival: int
) -> None:
    rows = np.empty(len(series), ROW)
    rows["fields"] = 4
    for name, numbers in zip(COLUMNS, (series, at, value, arrival), strict=True):
        rows[name] = numbers
        rows[f"{name} bytes"] = ROW[name].itemsize
    async with connection.cursor().copy(COPY) as copy:
        await copy.write(COPY_HEAD + rows.tobytes() + COPY_TAIL)


async def _note_late(
    connection: Connection, late: tuple[Ints, Times], series: Ints, at: Times, arrival: int
) -> None:
    async with connection.pipeline():
        await connection.execute(MARK_LATE, late)
        await connection.execute(NOTE_LATE, [arrival, *_spans(*late, series, at)])


async def _store_new(connection: Connection, group: list[Rows], arrival: int) -> None:
    """What is not there yet."""
    timed = [rows for rows in group if rows.timed]
    untimed = [rows for rows in group if not rows.timed]
    if timed:
        series, at, value = _sorted(timed)
        await connection.execute(INSERT, [arrival, series, at, value])
        late = _days(series, at)
        if len(late[0]):
            await _note_late(connection, late, series, at, arrival)
    if untimed:
        await _store_at_free_times(connection, arrival, *_sorted(untimed))


def _sorted(group: list[Rows]) -> tuple[Ints, Times, Floats]:
    """By series and time; of equal ones the first stays the first."""
    series = np.concatenate([rows.series for rows in group])
    at = np.concatenate([rows.at for rows in group])
    order = np.lexsort((at, series))
    return series[order], at[order], np.concatenate([rows.value for rows in group])[order]


def _days(series: Ints, at: Times) -> tuple[Ints, Times]:
    """The series and days with samples that may be late, each with its earliest time."""
    late = at < now() - PERHAPS_LATE
    series, at = series[late], at[late]
    changes = (np.diff(series, prepend=-1) != 0) | (np.diff(at // DAY, prepend=-1) != 0)
    return series[changes], at[changes]


def _spans(late: Ints, first: Times, series: Ints, at: Times) -> tuple[Ints, Times, Times]:
    """The series with late samples, each with the earliest of its times and the latest."""
    each, start = np.unique(late, return_index=True)
    return each, first[start], at[np.searchsorted(series, each, side="right") - 1]


async def _store_at_free_times(
    connection: Connection, arrival: int, series: Ints, at: Times, value: Floats
) -> None:
    """Where the time was left to the service, two samples never count as the same one."""
    while len(series):
        cursor = await connection.execute(INSERT + RETURNING, [arrival, series, at, value])
        if cursor.rowcount == len(series):
            return
        stored = {tuple(key) for key in await cursor.fetchall()}
        keys = zip(series.tolist(), at.tolist(), strict=True)
        left = np.array([key not in stored for key in keys])
        series, at, value = series[left], at[left] + 1, value[left]
