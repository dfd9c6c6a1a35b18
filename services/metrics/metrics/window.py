"""A window of a model's history: everything that statistics and plots are made of.

Whole days come from `days`, whole hours around them from `hours`, and what is
left at the two ends, or was recorded late, from the samples. Each sample is
in exactly one of them, so counts, totals and extremes are those of the
samples.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.contracts.monitoring import EPOCH
from common.postgres import Connection, Database
from metrics.arrays import Floats, Times

# A metric with no more samples than this in the window is computed from them.
EXACT = 4_000
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Later than anything that can be recorded.
END = datetime(9999, 1, 1, tzinfo=UTC)

# As pack_hour(), histogram_of() and timestamptz_send() || float8send() write them.
HOURS = np.dtype(
    [("at", ">i8"), ("count", ">i8"), ("total", ">f8"), ("minimum", ">f8"), ("maximum", ">f8")]
)
BINS = np.dtype([("bin", ">i4"), ("count", ">i4")])
SAMPLES = np.dtype([("at", ">i8"), ("value", ">f8")])
# In this machine's byte order, and counts that can be added up.
NATIVE_HOURS = HOURS.newbyteorder("=")

STATE = """
select until, stale.series, stale.day
from watermark left join stale on stale.series = any(%s::integer[]) and stale.day > %s
"""
READ = """
with raw as (
    select * from unnest(%(series)s::integer[], %(firsts)s::timestamptz[],
        %(lasts)s::timestamptz[]) as spans(series, first, last)
), late as (
    select * from unnest(%(late)s::integer[], %(late_days)s::timestamptz[]) as late(series, day)
)
select series, string_agg(hours, ''::bytea), string_agg(histogram, ''::bytea) from (
    select raw.series, h.* from raw cross join lateral (
        select
            pack_hour(date_trunc('hour', at, 'UTC'), count(*), sum(value), min(value), max(value))
                as hours,
            histogram_of(array_agg(log_bin(value))) as histogram
        from samples where series = raw.series and at >= raw.first and at < raw.last
        group by date_trunc('hour', at, 'UTC')
    ) as h
    union all
    select series, pack_hour(hour, count, total, minimum, maximum), histogram from hours
    where series = any(%(ids)s::integer[]) and (
        hour >= %(hour)s and hour < least(%(day)s, %(until)s)
        or hour >= greatest(%(day)s, %(until_day)s) and hour < %(until)s
    ) and (series, date_trunc('day', hour, 'UTC')) not in (select series, day from late)
    union all
    select series, hours, histogram from days
    where series = any(%(ids)s::integer[]) and day >= %(day)s and day < %(until_day)s
    and (series, day) not in (select series, day from late)
) as parts group by series
"""
READ_SAMPLES = """
select series, string_agg(timestamptz_send(at) || float8send(value), ''::bytea)
from samples where series = any(%s::integer[]) and at >= %s group by series
"""


@dataclass(slots=True)
class History:
    """One metric in the window.

    `hours` is a NATIVE_HOURS array by time, an entry for each hour with
    samples; `bins` and `counts` are the histogram, from the least value up.
    `at` (microseconds since 2000, ascending) and `value` are the samples
    themselves, where there are few.
    """

    hours: NDArray[Any]
    bins: NDArray[np.int32]
    counts: NDArray[np.int64]
    at: Times | None = None
    value: Floats | None = None

    @property
    def count(self) -> int:
        return int(self.hours["count"].sum())


EMPTY = History(np.empty(0, NATIVE_HOURS), np.empty(0, np.int32), np.empty(0, np.int64))


async def read(database: Database, ids: list[int], since: datetime) -> dict[int, History]:
    """The histories of some series from `since` on; one without samples is left out."""
    async with database.connection() as connection:
        spans = await _spans(connection, ids, since)
        cursor = await connection.cursor(binary=True).execute(READ, spans)
        found = {series: _history(*packed) for series, *packed in await cursor.fetchall()}
        few = [series for series, history in found.items() if history.count <= EXACT]
        if few:
            cursor = await connection.cursor(binary=True).execute(READ_SAMPLES, [few, since])
            for series, packed in await cursor.fetchall():
                samples = np.frombuffer(packed, SAMPLES)
                samples = samples[np.argsort(samples["at"], kind="stable")]
                found[series].at = samples["at"].astype(np.int64)
                found[series].value = samples["value"].astype(np.float64)
    return found


async def _spans(connection: Connection, ids: list[int], since: datetime) -> dict[str, Any]:
    """What is read from where.

    What is committed between this and the reading changes which of two equal
    sources is read, never what is found there.
    """
    rows = await (await connection.execute(STATE, [ids, since - DAY])).fetchall()
    until = rows[0][0].astimezone(UTC)
    late = [(series, day.astimezone(UTC)) for _, series, day in rows if series is not None]
    hour, day = _ceil(since, HOUR), _ceil(since, DAY)
    raw = [(series, since, hour) for series in ids]
    raw += [(series, max(hour, until), END) for series in ids]
    raw += [(series, max(hour, day), min(day + DAY, until)) for series, day in late]
    return {
        "ids": ids,
        "hour": hour,
        "day": day,
        "until": until,
        "until_day": _ceil(until - DAY + timedelta(microseconds=1), DAY),
        "series": [series for series, _, _ in raw],
        "firsts": [first for _, first, _ in raw],
        "lasts": [last for _, _, last in raw],
        "late": [series for series, _ in late],
        "late_days": [day for _, day in late],
    }


def _ceil(time: datetime, step: timedelta) -> datetime:
    return time + (EPOCH - time) % step


def _history(hours: bytes, histogram: bytes) -> History:
    packed = np.frombuffer(hours, HOURS).astype(NATIVE_HOURS)
    bins, counts = _add(np.frombuffer(histogram, BINS))
    return History(packed[np.argsort(packed["at"], kind="stable")], bins, counts)


def _add(entries: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """The entries of several histograms as one, from the least bin up."""
    bins = entries["bin"].astype(np.int64)
    least = bins.min()
    # As floats, which hold counts to 2^53 exactly.
    counts = np.bincount(bins - least, weights=entries["count"])
    used = np.flatnonzero(counts)
    return (used + least).astype(np.int32), counts[used].astype(np.int64)
