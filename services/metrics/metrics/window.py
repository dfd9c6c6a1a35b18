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

from common.contracts.monitoring import EPOCH, MICROSECOND
from common.postgres import Connection
from metrics import histogram
from metrics.arrays import Floats, Times
from metrics.histogram import Bins, Counts

# A metric with no more samples than this in the window is computed from them.
EXACT = 4_000
# Fewer hours than this are too few points for a plot; its points are then made
# of the samples, unless those of a question are more (a twentieth of a second).
COARSE = 100
MOST_FINE = 100_000
# As many points as a screen has room for, and widths of buckets that a person
# would choose, in seconds.
MOST_POINTS = 500
WIDTHS = (1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Later than anything that can be recorded.
END = datetime(9999, 1, 1, tzinfo=UTC)

# As pack_hour() and timestamptz_send() || float8send() write them.
HOURS = np.dtype(
    [("at", ">i8"), ("count", ">i8"), ("total", ">f8"), ("minimum", ">f8"), ("maximum", ">f8")]
)
SAMPLES = np.dtype([("at", ">i8"), ("value", ">f8")])
# In this machine's byte order.
SPANS = HOURS.newbyteorder("=")
ADDED = (("count", np.add), ("total", np.add), ("minimum", np.minimum), ("maximum", np.maximum))

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
select series, string_agg(hours, ''::bytea), string_agg(histogram, ''::bytea),
    string_agg(samples, ''::bytea)
from (
    select raw.series, null as hours, null as histogram, s.samples
    from raw cross join lateral (
        select string_agg(timestamptz_send(at) || float8send(value), ''::bytea) as samples
        from samples where series = raw.series and at >= raw.first and at < raw.last
    ) as s
    where s.samples is not null
    union all
    select series, pack_hour(hour, count, total, minimum, maximum), histogram, null
    from hours
    where series = any(%(ids)s::integer[]) and (
        hour >= %(hour)s and hour < least(%(day)s, %(until)s)
        or hour >= greatest(%(day)s, %(until_day)s) and hour < %(until)s
    ) and (series, date_trunc('day', hour, 'UTC')) not in (select series, day from late)
    union all
    select series, hours, histogram, null from days
    where series = any(%(ids)s::integer[]) and day >= %(day)s and day < %(until_day)s
    and (series, day) not in (select series, day from late)
) as parts group by series
"""
READ_SAMPLES = """
select series, string_agg(timestamptz_send(at) || float8send(value), ''::bytea)
from samples where series = any(%s::integer[]) and at >= %s group by series
"""
# In the narrowest buckets that leave no more points than a plot has.
READ_FINE = """
select asked.series, width,
    string_agg(pack_hour(fine.at, count, total, minimum, maximum), ''::bytea)
from unnest(%(series)s::integer[]) as asked(series)
cross join lateral (
    select extract(epoch from max(at) - min(at)) as seconds
    from samples where series = asked.series and at >= %(since)s
) as span
cross join lateral (
    select min(width) as width from unnest(%(widths)s::integer[]) as w(width)
    where seconds / width < %(most)s - 1
) as chosen
cross join lateral (
    select date_bin(make_interval(secs => width), at, '2000-01-01Z') as at, count(*) as count,
        sum(value) as total, min(value) as minimum, max(value) as maximum
    from samples where series = asked.series and at >= %(since)s group by 1
) as fine
group by asked.series, width
"""


@dataclass(slots=True)
class History:
    """One metric in the window.

    `hours` is a SPANS array by time, an entry for each hour with samples;
    `bins` and `counts` are the histogram, from the least value up. `at`
    (microseconds since 2000, ascending) and `value` are the samples
    themselves, where there are few. `fine` are narrower buckets than hours, of
    `width` seconds, where there are many in few hours.
    """

    hours: NDArray[Any]
    bins: Bins
    counts: Counts
    at: Times | None = None
    value: Floats | None = None
    fine: NDArray[Any] | None = None
    width: int = 3600

    @property
    def count(self) -> int:
        return int(self.hours["count"].sum())


EMPTY = History(np.empty(0, SPANS), np.empty(0, np.int64), np.empty(0, np.int64))


async def read(connection: Connection, ids: list[int], since: datetime) -> dict[int, History]:
    """The histories of some series from `since` on; one without samples is left out."""
    sources = await _sources(connection, ids, since)
    cursor = await connection.cursor(binary=True).execute(READ, sources)
    found = {series: _history(*packed) for series, *packed in await cursor.fetchall()}
    few = [series for series, history in found.items() if history.count <= EXACT]
    if few:
        cursor = await connection.cursor(binary=True).execute(READ_SAMPLES, [few, since])
        for series, packed in await cursor.fetchall():
            found[series].at, found[series].value = _samples(packed)
    await _refine(connection, found, since)
    return found


async def _refine(connection: Connection, found: dict[int, History], since: datetime) -> None:
    dense = [
        series
        for series, history in found.items()
        if history.value is None and len(history.hours) < COARSE
    ]
    if not dense or sum(found[series].count for series in dense) > MOST_FINE:
        return
    asked = {"series": dense, "since": since, "widths": list(WIDTHS), "most": MOST_POINTS}
    cursor = await connection.cursor(binary=True).execute(READ_FINE, asked)
    for series, width, packed in await cursor.fetchall():
        entries = np.frombuffer(packed, HOURS).astype(SPANS)
        found[series].fine = entries[np.argsort(entries["at"], kind="stable")]
        found[series].width = width


async def _sources(connection: Connection, ids: list[int], since: datetime) -> dict[str, Any]:
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
    rolled = _rolled(ids, until, late)
    return {
        "ids": ids,
        "hour": hour,
        "day": day,
        "until": rolled,
        "until_day": _ceil(rolled - DAY + timedelta(microseconds=1), DAY),
        "series": [series for series, _, _ in raw],
        "firsts": [first for _, first, _ in raw],
        "lasts": [last for _, _, last in raw],
        "late": [series for series, _ in late],
        "late_days": [day for _, day in late],
    }


def _rolled(ids: list[int], until: datetime, late: list[tuple[int, datetime]]) -> datetime:
    """Where the last days begin that are late for everyone, whose rollups nobody reads.

    What was brought in just now is such days, and a continuous aggregate that
    is asked for them computes them before they are left out.
    """
    marked = set(late)
    while ids and all((series, _ceil(until, DAY) - DAY) in marked for series in ids):
        until = _ceil(until, DAY) - DAY
    return until


def _ceil(time: datetime, step: timedelta) -> datetime:
    return time + (EPOCH - time) % step


def _history(hours: bytes | None, packed: bytes | None, samples: bytes | None) -> History:
    at, value = _samples(samples or b"")
    raw = bucket(spans(at, value), HOUR)
    parts = np.concatenate([np.frombuffer(hours or b"", HOURS).astype(SPANS), raw])
    bins, counts = histogram.add(np.frombuffer(packed or b"", histogram.ENTRIES), value)
    return History(parts[np.argsort(parts["at"], kind="stable")], bins, counts)


def _samples(packed: bytes) -> tuple[Times, Floats]:
    """By time."""
    samples = np.frombuffer(packed, SAMPLES)
    at = samples["at"].astype(np.int64)
    order = np.argsort(at, kind="stable")
    return at[order], samples["value"].astype(np.float64)[order]


def spans(at: Times, value: Floats) -> NDArray[Any]:
    """Each sample as a SPANS entry of its own."""
    entries = np.empty(len(at), SPANS)
    entries["at"] = at
    entries["count"] = 1
    entries["total"] = entries["minimum"] = entries["maximum"] = value
    return entries


def bucket(entries: NDArray[Any], width: timedelta) -> NDArray[Any]:
    """Entries, by time, put together into buckets."""
    step = width // MICROSECOND
    numbers = entries["at"] // step
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    buckets = np.empty(len(first), SPANS)
    buckets["at"] = numbers[first] * step
    for column, join in ADDED if len(first) else ():
        buckets[column] = join.reduceat(entries[column], first)
    return buckets
