"""Storage of samples: COPY, or INSERT where some rows are stored already.

Each row is stored once: the same (series, time) again, in the same group or
years later, changes nothing. Rows are sorted, so that two transactions that
bring the same ones wait for each other and never deadlock.

Rows more than a day old are staged: a table of their own, which readers add to
the samples and the rollups' sweep merges into them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from common.contracts.timestamps import DAY_US, now_us, sql_us
from common.postgres import Connection
from metrics.arrays import Floats, Ints, Times

# Rows older than this are staged. The columnstore compresses rows older than a week.
MIN_STAGED_AGE_US = DAY_US

# A row in COPY's binary format: the number of fields, then each field after its length.
COLUMNS = {"series": ">i4", "at": ">i8", "value": ">f8", "arrival": ">i8"}
COPY_ROW = np.dtype(
    [("fields", ">i2")]
    + [part for name, kind in COLUMNS.items() for part in ((f"{name} bytes", ">i4"), (name, kind))]
)
COPY, COPY_STAGED = (
    f"copy {table} ({', '.join(COLUMNS)}) from stdin (format binary)".encode()
    for table in ("samples", "staged")
)
COPY_HEAD, COPY_TAIL = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
INSERT = f"""
insert into samples (series, at, value, arrival)
select series, at, value, %b::bigint from unnest(%b, %b, %b) as s(series, at, value)
on conflict do nothing
returning series, {sql_us("at")}
"""  # noqa: S608  (constants)
# The rollups consider everything older than ten minutes settled (rollups.NEXT).
MARK_LATE = """
insert into stale (series, day)
select series, date_trunc('day', at, 'UTC') from unnest(%b, %b) as s(series, at)
where at < now() - interval '5 minutes'
on conflict (series, day) do update set mark = excluded.mark, direct = true
"""
# Clocks of services and database may differ by the rest of those five minutes.
PERHAPS_LATE_US = 60_000_000
# Index of late samples for listeners that catch up; one row per series and transaction.
NOTE_LATE = """
insert into late (series, arrival, first, last)
select series, %b::bigint, first, last from unnest(%b, %b, %b) as s(series, first, last)
on conflict (series, arrival) do update
    set first = least(late.first, excluded.first), last = greatest(late.last, excluded.last)
"""
# Sorted, so that two transactions with the same keys do not deadlock. The gateway
# considers a key new after a day, whether or not it is still here.
FIRST_TIME = """
insert into requests (key) select unnest(%s::text[])
on conflict (key) do update set stored_at = now()
    where requests.stored_at < now() - interval '23 hours 59 minutes'
returning key
"""
# Finds which of the rows were stored with a given arrival.
COMMITTED = f"""
select series, {sql_us("at")}
from unnest(%b, %b) as asked(series, at) cross join lateral (
    select arrival from recorded
    where recorded.series = asked.series and recorded.at = asked.at
) as found where arrival = %b::bigint
"""  # noqa: S608  (constants)
# Staging and merging of a series exclude each other: a row that is being merged is in
# neither table for the one that stages it again. A few locks serve all series.
STAGE_LOCK = """
select pg_advisory_xact_lock_shared(hashtext('staged'), lock)
from (select distinct mod(series, 64) as lock from unnest(%b) as s(series) order by 1) as locks
"""
# Whether any sample is within the range that the rows of a day span.
PRESENT = """
with spans as (
    select series, min(at) as first, max(at) as last from unnest(%b, %b) as s(series, at)
    group by series, date_trunc('day', at, 'UTC')
)
select exists (
    select from spans cross join lateral (
        select from samples where series = spans.series and at between first and last limit 1
    ) as found
)
"""
# Existing rows are read in one range for each series and day: the columnstore finds ranges quickly,
# and single rows slowly.
STAGE = f"""
with incoming as (
    select series, at, value from unnest(%b, %b, %b) as s(series, at, value)
), spans as (
    select series, min(at) as first, max(at) as last from incoming
    group by series, date_trunc('day', at, 'UTC')
), present as (
    select spans.series, found.at from spans cross join lateral (
        select at from samples where series = spans.series and at between first and last
    ) as found
)
insert into staged (series, at, value, arrival)
select series, at, value, %b::bigint from incoming
where not exists (
    select from present where present.series = incoming.series and present.at = incoming.at
)
on conflict do nothing
returning series, {sql_us("at")}
"""  # noqa: S608  (constants)
MARK_STAGED = """
with days as (
    select series, date_trunc('day', at, 'UTC') as day, count(*) as count
    from unnest(%b, %b) as s(series, at) group by 1, 2 order by 1, 2
), counted as (
    insert into usage (account, staged)
    select account, sum(count) from days join series on id = series group by account order by 1
    on conflict (account) do update set staged = usage.staged + excluded.staged
)
insert into stale (series, day, direct, staged) select series, day, false, count from days
on conflict (series, day) do update
    set mark = excluded.mark, staged = stale.staged + excluded.staged
"""

# Mask of the rows of a call that were not stored before.
Fresh = NDArray[np.bool_]


@dataclass(slots=True)
class Rows:
    """Samples to store; `timed` is False where the service chose the time."""

    series: Ints
    at: Times
    value: Floats
    timed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.series)

    def only(self, chosen: NDArray[Any]) -> "Rows":
        return Rows(self.series[chosen], self.at[chosen], self.value[chosen], self.timed[chosen])

    def firsts(self) -> NDArray[np.bool_]:
        """Return which sorted rows differ in series or time from the previous row."""
        first: NDArray[np.bool_] = np.diff(self.series, prepend=-1) != 0
        first |= np.diff(self.at, prepend=-1) != 0
        return first

    def identities(self) -> list[tuple[int, int]]:
        return list(zip(self.series.tolist(), self.at.tolist(), strict=True))


async def store(
    connection: Connection, calls: Sequence[tuple[Rows, str]], arrival: int
) -> list[Fresh]:
    """Commit the rows of some calls; return which rows are new.

    Each call has its idempotency key, "" for none; rows of one key are stored once.
    """
    keys = sorted({key for _, key in calls} - {""})
    if not keys:
        return await _store_all(connection, [rows for rows, _ in calls], arrival)
    async with connection.transaction():
        cursor = await connection.execute(FIRST_TIME, [keys])
        first = {key for (key,) in await cursor.fetchall()}
        is_new: list[bool] = []
        for _, key in calls:
            is_new.append(not key or key in first)
            first.discard(key)
        group = [rows for (rows, _), new in zip(calls, is_new, strict=True) if new]
        fresh = iter(await _store_missing(connection, group, arrival))
        return [
            next(fresh) if new else np.zeros(len(rows), np.bool_)
            for (rows, _), new in zip(calls, is_new, strict=True)
        ]


async def find_committed(
    connection: Connection, group: Sequence[Rows], arrival: int
) -> list[Fresh] | None:
    """Return the result of an unacknowledged `store`; None if it committed nothing."""
    rows = _joined(group)
    cursor = await connection.execute(COMMITTED, [rows.series, rows.at, arrival])
    committed = set(await cursor.fetchall())
    if not committed:
        return None
    fresh = []
    for call in group:
        keys = call.identities()
        fresh.append(np.array([key in committed for key in keys], np.bool_))
        committed.difference_update(keys)  # of equal rows the first was stored
    return fresh


async def _store_all(connection: Connection, group: list[Rows], arrival: int) -> list[Fresh]:
    """Store rows by COPY, which takes half as long as an INSERT that skips stored rows.

    COPY stores all rows or none, so a single duplicate costs a second attempt.
    """
    rows = _joined(group)
    rows = rows.only(np.lexsort((rows.at, rows.series)))
    if _staged(rows).any():
        async with connection.transaction():
            return await _store_missing(connection, group, arrival)
    late = _late_days(rows)
    try:
        if not len(late[0]):
            await _copy(connection, rows, arrival)
        else:
            async with connection.transaction():
                await _copy(connection, rows, arrival)
                await _note_late(connection, late, rows, arrival)
    except psycopg.errors.UniqueViolation:
        async with connection.transaction():
            return await _store_missing(connection, group, arrival)
    return [np.ones(len(call), np.bool_) for call in group]


async def _copy(connection: Connection, rows: Rows, arrival: int, copy: bytes = COPY) -> None:
    packed = np.empty(len(rows), COPY_ROW)
    packed["fields"] = len(COLUMNS)
    numbers = (rows.series, rows.at, rows.value, arrival)
    for name, column in zip(COLUMNS, numbers, strict=True):
        packed[name] = column
        packed[f"{name} bytes"] = COPY_ROW[name].itemsize
    async with connection.cursor().copy(copy) as stream:
        await stream.write(COPY_HEAD + packed.tobytes() + COPY_TAIL)


async def _note_late(
    connection: Connection, late: tuple[Ints, Times], rows: Rows, arrival: int
) -> None:
    async with connection.pipeline():
        await connection.execute(MARK_LATE, late)
        await connection.execute(NOTE_LATE, [arrival, *_spans(*late, rows)])


async def _store_missing(
    connection: Connection, group: Sequence[Rows], arrival: int
) -> list[Fresh]:
    """Store the rows that are not stored yet, of equal rows the first; return which were new."""
    if not group:
        return []
    rows = _joined(group)
    order = np.lexsort((rows.at, rows.series))
    fresh = np.zeros(len(rows), np.bool_)
    timed, untimed = order[rows.timed[order]], order[~rows.timed[order]]
    if len(timed):
        chosen = rows.only(timed)
        first = chosen.firsts()
        chosen, timed = chosen.only(first), timed[first]
        staged = _staged(chosen)
        if staged.any():
            fresh[timed[staged]] = await _stage(connection, chosen.only(staged), arrival)
            chosen, timed = chosen.only(~staged), timed[~staged]
        fresh[timed] = await _insert(connection, chosen, arrival)
        late = _late_days(chosen)
        if len(late[0]):
            await _note_late(connection, late, chosen, arrival)
    if len(untimed):
        await _insert_at_free_times(connection, rows.only(untimed), arrival)
        fresh[untimed] = True
    ends = np.cumsum([len(call) for call in group])
    return list(np.split(fresh, ends[:-1]))


async def _insert(connection: Connection, rows: Rows, arrival: int) -> Fresh:
    """Insert distinct rows; return which of them were missing."""
    cursor = await connection.execute(INSERT, [arrival, rows.series, rows.at, rows.value])
    if cursor.rowcount == len(rows):
        return np.ones(len(rows), np.bool_)
    stored = {tuple(key) for key in await cursor.fetchall()}
    return np.array([key in stored for key in rows.identities()])


async def _stage(connection: Connection, rows: Rows, arrival: int) -> Fresh:
    """Stage distinct, sorted rows; return which of them were missing."""
    await connection.execute(STAGE_LOCK, [rows.series])
    if await _copy_staged(connection, rows, arrival):
        fresh = np.ones(len(rows), np.bool_)
    else:
        cursor = await connection.execute(STAGE, [rows.series, rows.at, rows.value, arrival])
        stored = {tuple(key) for key in await cursor.fetchall()}
        fresh = np.array([key in stored for key in rows.identities()], np.bool_)
    if fresh.any():
        rows = rows.only(fresh)
        spans = _spans(*_late_days(rows), rows)
        async with connection.pipeline():
            await connection.execute(MARK_STAGED, [rows.series, rows.at])
            await connection.execute(NOTE_LATE, [arrival, *spans])
    return fresh


async def _copy_staged(connection: Connection, rows: Rows, arrival: int) -> bool:
    """Stage rows by COPY, in half the time; return False if some of them may be stored already."""
    cursor = await connection.execute(PRESENT, [rows.series, rows.at])
    if await cursor.fetchone() != (False,):
        return False
    try:
        async with connection.transaction():
            await _copy(connection, rows, arrival, COPY_STAGED)
    except psycopg.errors.UniqueViolation:
        return False
    return True


async def _insert_at_free_times(connection: Connection, rows: Rows, arrival: int) -> None:
    """Insert sorted rows; a row whose time is occupied moves by a microsecond."""
    while len(rows):
        first = rows.firsts()
        first[first] = await _insert(connection, rows.only(first), arrival)
        rows = rows.only(~first)
        rows.at += 1


def _joined(group: Sequence[Rows]) -> Rows:
    return Rows(
        np.concatenate([rows.series for rows in group]),
        np.concatenate([rows.at for rows in group]),
        np.concatenate([rows.value for rows in group]),
        np.concatenate([rows.timed for rows in group]),
    )


def _staged(rows: Rows) -> NDArray[np.bool_]:
    """Return which rows are old enough to be staged."""
    staged: NDArray[np.bool_] = rows.at < now_us() - MIN_STAGED_AGE_US
    return staged & rows.timed


def _late_days(rows: Rows) -> tuple[Ints, Times]:
    """Return the series and days with possibly late samples, each with its earliest time."""
    late = rows.at < now_us() - PERHAPS_LATE_US
    series, at = rows.series[late], rows.at[late]
    changes = (np.diff(series, prepend=-1) != 0) | (np.diff(at // DAY_US, prepend=-1) != 0)
    return series[changes], at[changes]


def _spans(late: Ints, first: Times, rows: Rows) -> tuple[Ints, Times, Times]:
    """Return the series with late samples, each with the earliest and latest time."""
    each, start = np.unique(late, return_index=True)
    return each, first[start], rows.at[np.searchsorted(rows.series, each, side="right") - 1]
