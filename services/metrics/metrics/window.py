"""Windows of a model's history, the basis of statistics and plots.

Whole days come from `days`, whole hours around them from `hours`, and the two
ends and late days from the samples, as well as what is staged. Each sample is
in exactly one of them, so counts, totals and extremes are exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common.contracts.timestamps import EPOCH, MICROSECOND, from_us
from common.postgres import Connection
from metrics import histogram
from metrics.arrays import Floats, Times
from metrics.histogram import Bins, Counts
from metrics.window_queries import READ, READ_FINE, READ_SAMPLES, READ_SPANS, READABLE, STATE

# A metric with no more samples than this in the window is computed from them.
MAX_EXACT = 4_000
# Max samples of one answer that are read because they are not rolled up: half a second's work.
MAX_RAW = 400_000
# Samples of more late days of each series are counted first: all of these days may hold too many.
MANY_LATE_DAYS = 2
# Fewer hours than this are too few points for a plot; its points are then made of the
# samples, unless one answer has more of them (a twentieth of a second's work).
MIN_PLOTTED_HOURS = 100
MAX_FINE = 100_000
# Samples read around an edge; a cell with more is placed by those at its beginning.
MAX_AROUND = 20_000
# Points that a screen has room for, and bucket widths that a person would choose.
MAX_POINTS = 500
WIDTHS_S = (1, 5, 15, 60, 300, 900, 3600, 3 * 3600, 6 * 3600, 12 * 3600, 86400, 2 * 86400)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
# Later than any sample.
END = datetime(9999, 1, 1, tzinfo=UTC)

# Binary layouts of pack_hour(), and of timestamptz_send() || float8send().
HOURS = np.dtype(
    [("at", ">i8"), ("count", ">i8"), ("total", ">f8"), ("minimum", ">f8"), ("maximum", ">f8")]
)
SAMPLES = np.dtype([("at", ">i8"), ("value", ">f8")])
# In this machine's byte order.
BUCKET = HOURS.newbyteorder("=")
ADDED = (("count", np.add), ("total", np.add), ("minimum", np.minimum), ("maximum", np.maximum))


@dataclass(slots=True)
class History:
    """The history of a metric in a window.

    Attributes:
        hours: a BUCKET array by time, with an entry for each hour with samples.
        bins, counts: the histogram, from the least value up.
        at, value: the samples by time, where they are few; times are microseconds since 2000.
        fine: buckets of `width` seconds, narrower than hours, where few hours hold many samples.
        newest: time of the newest sample that is not rolled up; 0 if all are.
    """

    hours: NDArray[Any]
    bins: Bins
    counts: Counts
    at: Times | None = None
    value: Floats | None = None
    fine: NDArray[Any] | None = None
    width: int = 3600
    newest: int = 0

    @property
    def count(self) -> int:
        return int(self.hours["count"].sum())


EMPTY = History(np.empty(0, BUCKET), np.empty(0, np.int64), np.empty(0, np.int64))


@dataclass(slots=True)
class Window:
    """The histories of some series, by the number of each series.

    `left_out`: for each series with too many samples that are not rolled up, the
    first and the last time that its history lacks.
    """

    histories: dict[int, History] = field(default_factory=dict)
    left_out: dict[int, tuple[datetime, datetime]] = field(default_factory=dict)

    def leave_out(self, series: int, first: datetime, last: datetime) -> None:
        begin, end = self.left_out.get(series, (first, last))
        self.left_out[series] = min(begin, first), max(end, last)


class Mark(NamedTuple):
    """A day of a series with incomplete rollups (table `stale`)."""

    series: int
    day: datetime
    direct: bool
    staged: int


class Span(NamedTuple):
    """A span of time to read as samples; `day` is the late day that contains it, if any."""

    series: int
    first: datetime
    last: datetime
    day: datetime | None = None


async def read(
    connection: Connection, ids: list[int], since: datetime, *, summed: bool = False
) -> Window:
    """Read the histories of some series since a time; omit series without samples.

    `summed` histories have hours alone, without the samples of series that have few.

    A window with more samples that are not rolled up than an answer can read
    is read in part: the newest of them, and the rollups as they are.

    The transaction must be a snapshot: a merge between two statements would
    hide the samples it moves.
    """
    state = await (await connection.execute(STATE, [ids, since - DAY])).fetchall()
    until = state[0][0].astimezone(UTC)
    marks = [Mark(series, day.astimezone(UTC), *rest) for _, series, day, *rest in state if day]
    window = Window()
    late = [(mark.series, mark.day) for mark in marks if mark.direct]
    if len(late) > MANY_LATE_DAYS * len(ids):
        late = await _readable(connection, window, ids, late)
    staged = _affordable(window, ids, marks)
    for attempt in (1, 2):
        spans, sources = _sources(ids, since, until, late, staged)
        cursor = await connection.cursor(binary=True).execute(READ, sources)
        rows = await cursor.fetchall()
        cut = {
            number: (series, oldest.astimezone(UTC))
            for series, *_, numbers, oldests in rows
            for number, oldest in zip(numbers or (), oldests or (), strict=True)
        }
        crowded = [span for number, span in enumerate(spans, 1) if number in cut and span.day]
        if attempt == 2 or not crowded:
            break
        # Crowded days are read from their rollups, without late samples.
        late = [
            day_of_series
            for day_of_series in late
            if day_of_series not in {(span.series, span.day) for span in crowded}
        ]
        for span in crowded:
            window.leave_out(span.series, span.first, span.last)
    for number, (series, oldest) in cut.items():
        window.leave_out(series, spans[number - 1].first, oldest)
    window.histories = {series: _history(*packed) for series, *packed, _, _ in rows}
    if not summed:
        await _read_samples(connection, window, since)
    return window


async def _read_samples(connection: Connection, window: Window, since: datetime) -> None:
    """Read all samples of the series that have few, and add them to the window."""
    complete = {n: history for n, history in window.histories.items() if n not in window.left_out}
    few = [series for series, history in complete.items() if history.count <= MAX_EXACT]
    if few:
        cursor = await connection.cursor(binary=True).execute(READ_SAMPLES, [few, since])
        for series, packed in await cursor.fetchall():
            complete[series].at, complete[series].value = _samples(packed)
    await _refine(connection, complete, since)


def _affordable(window: Window, ids: list[int], marks: list[Mark]) -> list[tuple[int, datetime]]:
    """Return the days whose staged samples can be read, newest first; record which cannot."""
    budget = dict.fromkeys(ids, MAX_RAW // len(ids)) if ids else {}
    affordable = []
    for mark in sorted(marks, key=lambda mark: mark.day, reverse=True):
        if mark.staged:
            budget[mark.series] -= mark.staged
            if budget[mark.series] >= 0:
                affordable.append((mark.series, mark.day))
            else:
                window.leave_out(mark.series, mark.day, mark.day + DAY)
    return affordable


async def _readable(
    connection: Connection, window: Window, ids: list[int], late: list[tuple[int, datetime]]
) -> list[tuple[int, datetime]]:
    """Return the late days whose samples can be read, newest first; record which cannot."""
    series, days = zip(*late, strict=True)
    # Half of what is read elsewhere: they are counted, too.
    most = MAX_RAW // 2 // len(ids)
    parameters = {"series": list(series), "days": list(days), "most": most}
    rows = await (await connection.execute(READABLE, parameters)).fetchall()
    readable = {(number, day.astimezone(UTC)) for number, day in rows}
    for number, day in late:
        if (number, day) not in readable:
            window.leave_out(number, day, day + DAY)
    return [of_series for of_series in late if of_series in readable]


async def read_spans(
    connection: Connection, spans: Mapping[int, list[tuple[int, int]]]
) -> dict[int, tuple[Times, Floats]]:
    """Read the samples of some series in spans of time, in microseconds since 2000."""
    rows = [
        (series, *span) for series, spans_of_series in spans.items() for span in spans_of_series
    ]
    if not rows:
        return {}
    ids, firsts, lasts = zip(*rows, strict=True)
    parameters = [
        list(ids),
        [from_us(at) for at in firsts],
        [from_us(at) for at in lasts],
        MAX_AROUND,
    ]
    cursor = await connection.cursor(binary=True).execute(READ_SPANS, parameters)
    return {series: _samples(packed) for series, packed in await cursor.fetchall()}


async def _refine(connection: Connection, histories: dict[int, History], since: datetime) -> None:
    dense = [
        series
        for series, history in histories.items()
        if history.value is None and len(history.hours) < MIN_PLOTTED_HOURS
    ]
    if not dense or sum(histories[series].count for series in dense) > MAX_FINE:
        return
    parameters = {"series": dense, "since": since, "widths": list(WIDTHS_S), "most": MAX_POINTS}
    cursor = await connection.cursor(binary=True).execute(READ_FINE, parameters)
    for series, width, packed in await cursor.fetchall():
        entries = np.frombuffer(packed, HOURS).astype(BUCKET)
        histories[series].fine = entries[np.argsort(entries["at"], kind="stable")]
        histories[series].width = width


def _sources(
    ids: list[int],
    since: datetime,
    until: datetime,
    late: list[tuple[int, datetime]],
    staged: list[tuple[int, datetime]],
) -> tuple[list[Span], dict[str, Any]]:
    """Return the spans to read as samples, and the parameters of READ."""
    hour, day = _ceil(since, HOUR), _ceil(since, DAY)
    raw = [Span(series, since, hour) for series in ids]
    raw += [Span(series, max(hour, until), END) for series in ids]
    raw += [Span(n, max(hour, first), min(first + DAY, until), first) for n, first in late]
    waiting = [Span(n, max(since, first), first + DAY) for n, first in staged]
    rolled = _rolled(ids, until, late)
    return raw, {
        "ids": ids,
        "hour": hour,
        "day": day,
        "until": rolled,
        "until_day": _ceil(rolled - DAY + timedelta(microseconds=1), DAY),
        "series": [span.series for span in raw],
        "firsts": [span.first for span in raw],
        "lasts": [span.last for span in raw],
        "staged": [span.series for span in waiting],
        "staged_firsts": [span.first for span in waiting],
        "staged_lasts": [span.last for span in waiting],
        "late": [series for series, _ in late],
        "late_days": [day for _, day in late],
        "most": max(MAX_RAW // max(len(ids), 1), 1),
    }


def _rolled(ids: list[int], until: datetime, late: list[tuple[int, datetime]]) -> datetime:
    """Return the end of the rollups to read: before the latest days if all series are stale.

    A continuous aggregate would compute them before they are left out.
    """
    marked = set(late)
    while ids and all((series, _ceil(until, DAY) - DAY) in marked for series in ids):
        until = _ceil(until, DAY) - DAY
    return until


def _ceil(time: datetime, step: timedelta) -> datetime:
    return time + (EPOCH - time) % step


def _history(hours: bytes | None, packed: bytes | None, samples: bytes | None) -> History:
    at, value = _samples(samples or b"")
    parts = np.concatenate([np.frombuffer(hours or b"", HOURS).astype(BUCKET), spans(at, value)])
    bins, counts = histogram.add(np.frombuffer(packed or b"", histogram.ENTRIES), value)
    # An hour may be both rolled up and staged.
    parts = bucket(parts[np.argsort(parts["at"], kind="stable")], HOUR)
    return History(parts, bins, counts, newest=int(at[-1]) if len(at) else 0)


def _samples(packed: bytes) -> tuple[Times, Floats]:
    """Unpack samples, sorted by time."""
    samples = np.frombuffer(packed, SAMPLES)
    at = samples["at"].astype(np.int64)
    order = np.argsort(at, kind="stable")
    return at[order], samples["value"].astype(np.float64)[order]


def spans(at: Times, value: Floats) -> NDArray[Any]:
    """Convert each sample to a BUCKET entry."""
    entries = np.empty(len(at), BUCKET)
    entries["at"] = at
    entries["count"] = 1
    entries["total"] = entries["minimum"] = entries["maximum"] = value
    return entries


def bucket(entries: NDArray[Any], width: timedelta) -> NDArray[Any]:
    """Combine entries in order of time into buckets."""
    step = width // MICROSECOND
    numbers = entries["at"] // step
    first = np.flatnonzero(np.diff(numbers, prepend=-1))
    buckets = np.empty(len(first), BUCKET)
    buckets["at"] = numbers[first] * step
    for column, join in ADDED if len(first) else ():
        buckets[column] = join.reduceat(entries[column], first)
    return buckets
