"""Group commit: what arrives while one transaction is under way goes into the next.

Each row is stored once: the same (series, time) again, in the same group or
years later, changes nothing. Rows are sorted, so that two transactions that
bring the same ones wait for each other and never deadlock.

What is new is told before the caller is answered, on the same connection to
the bus: whoever has an answer knows that it was told, whatever dies next.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
import psycopg
import structlog
from numpy.typing import NDArray

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
returning series, (extract(epoch from at - '2000-01-01Z') * 1e6)::bigint
"""
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
# In order, so that two transactions that bring the same ones do not deadlock. After
# a day the gateway takes a key for a new one, whether it is forgotten here or not.
FIRST_TIME = """
insert into requests (key) select unnest(%s::text[])
on conflict (key) do update set stored_at = now()
    where requests.stored_at < now() - interval '23 hours 59 minutes'
returning key
"""
NUMBER = "select nextval('writers')"
# Which of the rows were stored with that arrival.
STORED = """
select series, (extract(epoch from at - '2000-01-01Z') * 1e6)::bigint
from unnest(%b, %b) as asked(series, at) join samples using (series, at)
where arrival = %b::bigint
"""
# Whether rows were stored whose commit nobody answered is looked at after so long, then ever more
# rarely, and for so long, in seconds: the server may still be at it, or away.
LOOK, DOUBT = 1.0, 60.0
# Groups in doubt at once: a minute's, one for each time that a transaction is given up.
MOST_DOUBTFUL = 12


Call = TypeVar("Call")


@dataclass(slots=True)
class Rows:
    """Samples to store. `timed` is False where the service itself chose the time of any."""

    series: Ints
    at: Times
    value: Floats
    timed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.series)

    def only(self, chosen: NDArray[Any]) -> "Rows":
        return Rows(self.series[chosen], self.at[chosen], self.value[chosen], self.timed[chosen])


# Of each call which rows were not there yet; None: all.
New = list[NDArray[np.bool_] | None]


@dataclass(slots=True)
class Stored(Generic[Call]):
    """A call that was committed; `new`: which of its rows were not there yet, None: all."""

    call: Call
    arrival: int
    new: NDArray[np.bool_] | None = None


@dataclass(slots=True)
class Waiting(Generic[Call]):
    """A call: all of its rows are stored, or none."""

    call: Call
    rows: Rows
    done: "asyncio.Future[None]"
    key: str


@dataclass(slots=True)
class Doubtful(Generic[Call]):
    """A group that may have been committed, though nobody said so.

    since, next: when that was, and when it is looked at again, monotonic.
    """

    group: list[Waiting[Call]]
    arrival: int
    since: float
    next: float


def now() -> int:
    """Microseconds since 2000."""
    return time.time_ns() // 1000 - int(EPOCH.timestamp()) * 1_000_000


class Writer(Generic[Call]):
    """Stores what callers bring.

    Args:
        tell: called with what was committed, in the order of arrival, before the
            callers are answered, and whether they still wait or not.
    """

    def __init__(
        self, database: Database, tell: Callable[[list[Stored[Call]]], Awaitable[None]]
    ) -> None:
        self.database = database
        self.tell = tell
        self._queue: deque[Waiting[Call]] = deque()
        self._rows = 0
        self._doubtful: deque[Doubtful[Call]] = deque(maxlen=MOST_DOUBTFUL)
        self._look: asyncio.TimerHandle | None = None
        self._filled = asyncio.Event()
        self._number = 0
        self._last = 0

    async def write(self, call: Call, rows: Rows, key: str = "") -> None:
        """Returns when the rows are committed and told; those of one `key` are stored once.

        Raises:
            Unavailable: the database is away, slow or full, or too much waits already.
        """
        if self._rows > MOST_WAITING:
            raise Unavailable("too much waits to be stored", retry_after=1)
        done = asyncio.get_running_loop().create_future()
        self._queue.append(Waiting(call, rows, done, key))
        self._rows += len(rows)
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
                    await self._settle(connection)
                    while group := self._take():
                        await self._commit(connection, group)
            except ServiceError as error:
                # No connection, or it broke; `_commit` has answered its group.
                log.warning("not stored", error=error.message)
                self._forget_those_who_left()
            if self._doubtful and self._look is None:
                self._look = asyncio.get_running_loop().call_later(LOOK, self._look_again)

    def _look_again(self) -> None:
        self._look = None
        self._filled.set()

    async def _settle(self, connection: Connection) -> None:
        """Tell what was committed without an answer.

        Its callers were told to send it again, and when they do it is there already: nobody
        else tells it.
        """
        moment = time.monotonic()
        for doubtful in [one for one in self._doubtful if one.next <= moment]:
            age = moment - doubtful.since
            doubtful.next = moment + age + LOOK
            try:
                async with asyncio.timeout(PATIENCE):
                    stored = await _stored(connection, doubtful)
            except TimeoutError as error:
                raise psycopg.OperationalError(str(error)) from error
            if stored:
                await self._tell(stored)
            if stored or age > DOUBT:
                self._doubtful.remove(doubtful)

    def _take(self) -> list[Waiting[Call]]:
        group: list[Waiting[Call]] = []
        rows = 0
        while self._queue and (not group or rows + len(self._queue[0].rows) <= MOST_ROWS):
            waiting = self._queue.popleft()
            self._rows -= len(waiting.rows)
            if waiting.done.cancelled():
                continue  # the caller has been told that it took too long
            rows += len(waiting.rows)
            group.append(waiting)
        return group

    def _forget_those_who_left(self) -> None:
        """They were told that it took too long."""
        self._queue = deque(waiting for waiting in self._queue if not waiting.done.cancelled())
        self._rows = sum(len(waiting.rows) for waiting in self._queue)
        if self._queue:
            self._filled.set()

    async def _commit(self, connection: Connection, group: list[Waiting[Call]]) -> None:
        self._last = max(now(), self._last + 1)
        arrival = self._last * 256 + self._number
        try:
            async with asyncio.timeout(PATIENCE):
                new = await _store(connection, group, arrival)
        except (TimeoutError, psycopg.OperationalError, psycopg.InterfaceError) as error:
            _fail(group, Unavailable("the database is busy or away", retry_after=1))
            if _is_doubtful(error):
                since = time.monotonic()
                self._doubtful.append(Doubtful(group, arrival, since, since))
                # Who has heard something later of this writer has heard all before it. What may
                # still come of this group is somebody else's.
                self._number = 0
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
            await self._tell([Stored(w.call, arrival, n) for w, n in zip(group, new, strict=True)])
            for waiting in group:
                if not waiting.done.done():
                    waiting.done.set_result(None)

    async def _tell(self, stored: list[Stored[Call]]) -> None:
        try:
            await self.tell(stored)
        except Exception:
            # It is stored; who missed it can ask for it.
            log.exception("not told")


def _is_doubtful(error: Exception) -> bool:
    """Whether the server did not say itself that nothing was committed."""
    said = error.sqlstate if isinstance(error, psycopg.Error) else None
    return said is None or said.startswith("57P")  # 57P: it is stopping, whatever was done


def _fail(group: list[Waiting[Call]], error: ServiceError) -> None:
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


async def _store(connection: Connection, group: list[Waiting[Call]], arrival: int) -> New:
    keys = sorted({waiting.key for waiting in group} - {""})
    if not keys:
        return await _store_all(connection, [waiting.rows for waiting in group], arrival)
    async with connection.transaction():
        cursor = await connection.execute(FIRST_TIME, [keys])
        first = {key for (key,) in await cursor.fetchall()}
        wanted: list[bool] = []
        for waiting in group:
            wanted.append(not waiting.key or waiting.key in first)
            first.discard(waiting.key)
        rows = [w.rows for w, wants in zip(group, wanted, strict=True) if wants]
        new = iter(await _store_new(connection, rows, arrival))
        return [
            next(new) if wants else np.zeros(len(waiting.rows), np.bool_)
            for waiting, wants in zip(group, wanted, strict=True)
        ]


async def _store_all(connection: Connection, group: list[Rows], arrival: int) -> New:
    """By COPY, which takes half as long as what leaves out the rows that are there already.

    It knows only all or nothing, so where one is there, the other way is gone.
    """
    rows = _joined(group)
    rows = rows.only(np.lexsort((rows.at, rows.series)))
    late = _days(rows)
    try:
        if not len(late[0]):
            await _copy(connection, rows, arrival)
        else:
            async with connection.transaction():
                await _copy(connection, rows, arrival)
                await _note_late(connection, late, rows, arrival)
    except psycopg.errors.UniqueViolation:
        async with connection.transaction():
            return await _store_new(connection, group, arrival)
    return [None] * len(group)


async def _copy(connection: Connection, rows: Rows, arrival: int) -> None:
    packed = np.empty(len(rows), ROW)
    packed["fields"] = 4
    numbers = (rows.series, rows.at, rows.value, arrival)
    for name, column in zip(COLUMNS, numbers, strict=True):
        packed[name] = column
        packed[f"{name} bytes"] = ROW[name].itemsize
    async with connection.cursor().copy(COPY) as copy:
        await copy.write(COPY_HEAD + packed.tobytes() + COPY_TAIL)


async def _note_late(
    connection: Connection, late: tuple[Ints, Times], rows: Rows, arrival: int
) -> None:
    async with connection.pipeline():
        await connection.execute(MARK_LATE, late)
        await connection.execute(NOTE_LATE, [arrival, *_spans(*late, rows)])


async def _store_new(connection: Connection, group: list[Rows], arrival: int) -> New:
    """What is not there yet; of equal ones in the group the first."""
    if not group:
        return []
    rows = _joined(group)
    order = np.lexsort((rows.at, rows.series))
    found = np.zeros(len(rows), np.bool_)
    timed, untimed = order[rows.timed[order]], order[~rows.timed[order]]
    if len(timed):
        chosen = rows.only(timed)
        first = (np.diff(chosen.series, prepend=-1) != 0) | (np.diff(chosen.at, prepend=-1) != 0)
        chosen, timed = chosen.only(first), timed[first]
        stored = await _insert(connection, chosen, arrival)
        found[timed] = stored
        late = _days(chosen)
        if len(late[0]):
            await _note_late(connection, late, chosen, arrival)
    if len(untimed):
        await _store_at_free_times(connection, arrival, rows.only(untimed))
        found[untimed] = True
    ends = np.cumsum([len(one) for one in group])
    return list(np.split(found, ends[:-1]))


async def _insert(connection: Connection, rows: Rows, arrival: int) -> NDArray[np.bool_]:
    """Which of the rows, all different, were not there."""
    cursor = await connection.execute(INSERT, [arrival, rows.series, rows.at, rows.value])
    if cursor.rowcount == len(rows):
        return np.ones(len(rows), np.bool_)
    stored = {tuple(key) for key in await cursor.fetchall()}
    keys = zip(rows.series.tolist(), rows.at.tolist(), strict=True)
    return np.array([key in stored for key in keys])


async def _stored(connection: Connection, doubtful: Doubtful[Call]) -> list[Stored[Call]]:
    """What was committed of it; nothing, if it was not."""
    rows = _joined([waiting.rows for waiting in doubtful.group])
    cursor = await connection.execute(STORED, [rows.series, rows.at, doubtful.arrival])
    found = set(await cursor.fetchall())
    if not found:
        return []
    stored: list[Stored[Call]] = []
    for waiting in doubtful.group:
        keys = list(zip(waiting.rows.series.tolist(), waiting.rows.at.tolist(), strict=True))
        new = np.array([key in found for key in keys], np.bool_)
        found.difference_update(keys)  # of equal ones the first was stored
        stored.append(Stored(waiting.call, doubtful.arrival, new))
    return stored


def _joined(group: list[Rows]) -> Rows:
    return Rows(
        np.concatenate([rows.series for rows in group]),
        np.concatenate([rows.at for rows in group]),
        np.concatenate([rows.value for rows in group]),
        np.concatenate([rows.timed for rows in group]),
    )


def _days(rows: Rows) -> tuple[Ints, Times]:
    """The series and days with samples that may be late, each with its earliest time."""
    late = rows.at < now() - PERHAPS_LATE
    series, at = rows.series[late], rows.at[late]
    changes = (np.diff(series, prepend=-1) != 0) | (np.diff(at // DAY, prepend=-1) != 0)
    return series[changes], at[changes]


def _spans(late: Ints, first: Times, rows: Rows) -> tuple[Ints, Times, Times]:
    """The series with late samples, each with the earliest of its times and the latest."""
    each, start = np.unique(late, return_index=True)
    return each, first[start], rows.at[np.searchsorted(rows.series, each, side="right") - 1]


async def _store_at_free_times(connection: Connection, arrival: int, rows: Rows) -> None:
    """Where the time was left to the service, two samples never count as the same one."""
    while len(rows):
        # Of equal ones all but the first are moved on.
        first = (np.diff(rows.series, prepend=-1) != 0) | (np.diff(rows.at, prepend=-1) != 0)
        first[first] = await _insert(connection, rows.only(first), arrival)
        rows = rows.only(~first)
        rows.at += 1
