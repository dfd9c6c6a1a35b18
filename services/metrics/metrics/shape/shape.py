"""The shape of a series: events, season and noise."""

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from common.contracts.timestamps import DAY_US, HOUR_US, WEEK_US
from metrics.arrays import Floats
from metrics.shape import season as seasons
from metrics.shape import wave as waves
from metrics.shape.cells import Cells, divide, median, without_outliers
from metrics.shape.changes import Search
from metrics.shape.curve import Line, ramp, stretch
from metrics.shape.explanation import Explanation
from metrics.shape.noise import Noise, measure
from metrics.shape.season import Season
from metrics.window import History

Kind = Literal["incident", "step", "slope"]
# Fewer cells show nothing that could not be chance.
MIN_CELLS = 8
# A change that has lasted for less is an incident, not yet a step.
MIN_STEP_US = 12 * HOUR_US
# An incident ends when the level is back to within this share of its size.
BACK = 0.3
# A change over a larger share of the window did not pass: it was one level, then another.
MAX_INCIDENT_SHARE = 0.5
# The window may begin during an incident: shorter than this part of it, and than a day.
LEADING = 0.05
# A counter's falls are at most this share of its steps, and on average larger than this many
# median rises.
RESETS, FALLS = 0.25, 1.0
# A reset leaves at most this share of a counter, in the cell after it.
MAX_LEFT_SHARE = 0.35
# An incident's values exceed this share of the others, or the rank test is this clear, in squared
# deviations.
MIN_SHARE, MIN_SCORE, RARE = 0.96, 20.0, 1_000
# Days that hold two weekends; one weekend alone does not show whether it is typical.
TWO_WEEKENDS = 13
WEEKEND_US = 2 * DAY_US
# In fewer days, a wave that explains all changes is believed although it is seen only once.
FEW_DAYS, MIN_PERIODS = 6, 1.0
# Rounds of finding seasons after removing changes, and changes after removing seasons.
PASSES = 2


@dataclass(slots=True)
class Event:
    """A change of a series: a step, a slope or an incident, with figures in the series' unit.

    Attributes:
        begin: in microseconds since 2000, as `end`, which is None while it lasts.
        size: how far the level moved; of a slope how far in a day.
        before: the level that it left.
        level: the level that it reached; of a slope, at its end.
        gain: what it explains, in squared deviations of the noise.
        chance: that noise alone looks like it somewhere in the window.
        edges: the cells that begin with it, and after it.
        rise: of a slope, how far the level moved in all, without the steps on its way.
        curved: it is a stretch of a curve, and its size is the mean of the rates.
    """

    kind: Kind
    begin: int
    end: int | None
    size: float
    before: float
    level: float
    gain: float
    chance: float
    edges: tuple[int, int | None] = (0, None)
    rise: float = 0.0
    curved: bool = False


@dataclass(slots=True)
class Shape:
    """The shape of one series; `cells` (time buckets) is None if there are too few of them.

    `fitted` is the level, with its slope and changes but without seasons, of each cell;
    `usual` is the last cell's, or the one before a change that has not lasted yet.
    """

    cells: Cells | None = None
    events: list[Event] = field(default_factory=list)
    season: Season | None = None
    fitted: Floats = field(default_factory=lambda: np.empty(0))
    usual: float = 0.0
    noise: Noise | None = None
    counter: bool = False

    @property
    def slope(self) -> Event | None:
        return next((event for event in self.events if event.kind == "slope"), None)

    def unexplained(self, values: Floats) -> float:
        """Return the squared norm of what neither changes nor seasons explain of the values."""
        rest = values - self.fitted - (0 if self.season is None else self.season.part)
        return float(rest @ rest)


def describe(history: History) -> Shape:
    """Describe the shape of a window from its hours."""
    if not len(history.hours):
        return Shape()
    cells = divide(history.hours)
    if len(cells) < MIN_CELLS:
        return Shape()
    if _counts(cells):
        return Shape(cells, counter=True, fitted=cells.mean)
    # Centred on 0 and scaled to 1: a metric may be of any size, and squares are summed up.
    middle = median(cells.mean)
    scale = float(np.abs(cells.mean - middle).max())
    if scale <= 1e-9 * abs(middle):
        return Shape(cells, fitted=np.full(len(cells), middle), usual=middle)
    values = (cells.mean - middle) / scale
    shape = _decompose(cells, values)
    if shape.events and cells.at[-1] - cells.at[0] < FEW_DAYS * DAY_US:
        waving = _waving(cells, values)
        # A rise and a fall, each over hours, resemble a wave; what explains them better is true.
        if waving is not None and waving.unexplained(values) < shape.unexplained(values):
            shape = waving
    shape.fitted = shape.fitted * scale + middle
    shape.usual = shape.usual * scale + middle
    if shape.season is not None:
        shape.season.scale(scale)
    if shape.noise is not None:
        shape.noise.deviation *= scale
    for event in shape.events:
        event.size *= scale
        event.rise *= scale
        event.before = event.before * scale + middle
        event.level = event.level * scale + middle
    return shape


def _counts(cells: Cells) -> bool:
    """Return whether the series is a counter that was reset."""
    steps = np.diff(cells.mean)
    falling = steps < 0
    rises = steps[steps > 0]
    if not falling.any() or len(rises) <= 8 or falling.sum() > RESETS * len(steps):
        return False
    # Noise falls as often as it rises.
    if np.mean(-steps[falling]) <= FALLS * median(rises):
        return False
    # A reset is the fall of one cell or of two; a gauge does not fall to nothing.
    first = falling & ~np.concatenate([[False], falling[:-1]])
    last = falling & ~np.concatenate([falling[1:], [False]])
    before, after = cells.mean[:-1][first], cells.mean[1:][last]
    return bool(after.min() >= 0 and after.sum() <= MAX_LEFT_SHARE * before.sum())


def _decompose(cells: Cells, values: Floats) -> Shape:
    times = cells.days()
    apart = values
    season = Season(daily=False, weekly=False, part=np.zeros(len(values)), week=np.zeros(1))
    changes = Explanation(levels=[0.0])
    noise = None
    clean = values
    for attempt in range(PASSES):
        found = seasons.find(cells, apart, season.wave)
        curve = changes.line is not None and changes.line.curve is not None
        if attempt and not found and not season and not curve:
            break
        season = found
        clean = values - season.part
        if season:
            smooth = not (season.daily or season.weekly)
            clean = cells.without_cut(clean, season.part if smooth else None)
        if not cells.dense:
            clean = without_outliers(clean)
        # A curve looks like noise over longer stretches.
        noise = measure(cells, clean - changes.fitted(times) if curve else clean)
        search = Search(clean, times, noise, dense=cells.dense)
        changes = (search.curved(refined=True) if curve else None) or search.find()
        if not changes.places and changes.line is None:
            break
        apart = values - changes.fitted(times)
    _refit(cells, times, changes, clean)
    fitted = changes.fitted(times)
    events, level = _level_changes(cells, changes)
    usual = level + float(fitted[-1]) - changes.levels[-1]
    events = _events(cells, times, changes, events, values - season.part - fitted, noise)
    return Shape(cells, events, season, fitted, usual, noise)


def _waving(cells: Cells, values: Floats) -> Shape | None:
    """Return the shape of a pure wave; None if the series has changes, too.

    A wave of nearly a day resembles a daily season for some days, and what a season of a day leaves
    of it resembles changes; so do the ups and downs of a wave that is seen only once.
    """
    wave = waves.find(cells.number - cells.number[0], values, MIN_PERIODS)
    if wave is None:
        return None
    clean = cells.without_cut(values - wave, wave)
    if not cells.dense:
        clean = without_outliers(clean)
    times = cells.days()
    noise = measure(cells, clean)
    changes = Search(clean, times, noise, dense=cells.dense).find()
    if changes.places or changes.line is not None:
        return None
    fitted = changes.fitted(times)
    season = Season(daily=False, weekly=False, part=wave, week=np.zeros(1), wave=wave.copy())
    return Shape(cells, [], season, fitted, float(fitted[-1]), noise)


def _refit(cells: Cells, times: Floats, changes: Explanation, values: Floats) -> None:
    """Refit slope and levels to means, without the cells in which the level changes.

    Such a cell is a part of both levels, and would draw each towards the other.
    """
    count, places = len(values), np.array(changes.places, np.int64)
    part = np.searchsorted(places, np.arange(count), side="right")
    whole = np.ones(count, bool)
    whole[places] = whole[places - 1] = False
    whole |= (np.bincount(part, weights=whole) == 0)[part]  # a part of such cells alone
    part, weights, values = part[whole], cells.count[whole], values[whole]
    counts = np.bincount(part, weights=weights)

    def means(column: Floats) -> Floats:
        return np.asarray(np.bincount(part, weights=weights * column) / counts)

    if changes.line is not None:
        rising = ramp(times, changes.line)[whole]
        apart = rising - means(rising)[part]
        square = float(weights @ apart**2)
        if square > 0:
            changes.rise = float((weights * apart) @ values) / square
            values = values - changes.rise * rising
    changes.levels = means(values).tolist()


def _events(
    cells: Cells,
    times: Floats,
    changes: Explanation,
    events: list[Event],
    rest: Floats,
    noise: Noise | None,
) -> list[Event]:
    """Return the slope and the changes of level that are significant, by time.

    `rest` is what season and changes leave of each value.
    """
    count = len(cells)
    if changes.line is not None:
        fitted = changes.fitted(times)
        risen = changes.rise * ramp(times, changes.line)
        for event in events:
            first, last = event.edges
            meanwhile = float(risen[first] if event.kind == "step" else risen[first:last].mean())
            event.before += meanwhile
            event.level += meanwhile
        line: Line | None = changes.line
        curved = changes.line.curve is not None
        if curved:
            line = stretch(risen, noise) if noise is not None else None
        if line is not None:
            rise = float(risen[line.last] - risen[line.first])
            days = float(times[line.last] - times[line.first])
            lasts = line.last == count - 1
            end = None if lasts else int(cells.at[line.last])
            events.append(
                Event("slope", int(cells.at[line.first]), end, rise / days,
                      float(fitted[line.first]), float(fitted[line.last]), changes.line_gain,
                      _chance(changes.line_gain, 2), (line.first, None if lasts else line.last),
                      rise, curved)
            )  # fmt: skip
    if not cells.dense:
        events = [event for event in events if event.kind != "incident" or _stands_out(event, rest)]
    if times[-1] < TWO_WEEKENDS:
        events = [event for event in events if not _spans_weekend(event)]
    return sorted(events, key=lambda event: event.begin)


def _stands_out(event: Event, rest: Floats) -> bool:
    """Return whether an incident is significant by ranks (Mann and Whitney)."""
    first, last = event.edges
    inside = rest[first:last] + event.size
    around = np.concatenate([rest[:first], rest[last:] if last is not None else rest[:0]])
    below = np.searchsorted(np.sort(around), inside).mean() / len(around)
    share = below if event.size > 0 else 1 - below
    score = (share - 0.5) ** 2 * 12 * len(inside) * len(around) / len(rest)
    # How unlikely this many values in a row, all this far out, are anywhere in the series.
    rare = -len(inside) * math.log(max(1 - share, 1 / len(rest)))
    return bool(rare > math.log(RARE * len(rest)) and (share > MIN_SHARE or score > MIN_SCORE))


def _spans_weekend(event: Event) -> bool:
    """Return whether an incident spans a weekend."""
    if event.kind != "incident" or event.end is None:
        return False
    # 1 January 2000 was a Saturday.
    begin, end = (event.begin + WEEKEND_US // 4) % WEEK_US, (event.end + WEEKEND_US // 4) % WEEK_US
    return begin < WEEKEND_US // 2 and WEEKEND_US <= end < WEEKEND_US + WEEKEND_US // 2


def _level_changes(cells: Cells, changes: Explanation) -> tuple[list[Event], float]:
    """Return temporary changes of level as incidents, and lasting ones as steps.

    Also return the last level, or the one before if it has not lasted.
    """
    count = len(cells)
    edges = [0, *changes.places, count]
    parts = [(edges[n], edges[n + 1], level) for n, level in enumerate(changes.levels)]
    gains = dict(zip(changes.places, changes.gains, strict=True))
    events: list[Event] = []

    def add(kind: Kind, first: int, last: int | None, before: float, level: float) -> None:
        gain = min(gains.get(first, math.inf), gains.get(last or count, math.inf))
        end = None if last is None else int(cells.at[last])
        places = count if kind == "step" else count * 8.0
        events.append(Event(kind, int(cells.at[first]), end, level - before, before, level, gain,
                           _chance(gain, places), (first, last)))  # fmt: skip

    width = 1
    while width < len(parts) - 1:
        for n in range(1, len(parts) - width):
            before, inside, after = parts[n - 1], parts[n : n + width], parts[n + width]
            first, last = inside[0][0], inside[-1][1]
            weights = [b - a for a, b, _ in inside]
            level = float(np.average([part[2] for part in inside], weights=weights))
            lengths = [before[1] - before[0], after[1] - after[0]]
            usual = float(np.average([before[2], after[2]], weights=lengths))
            distance = min(abs(part[2] - usual) for part in inside)
            same_side = len({part[2] > usual for part in inside}) == 1
            if (
                same_side
                and abs(before[2] - after[2]) <= BACK * distance
                and last - first <= MAX_INCIDENT_SHARE * count
            ):
                add("incident", first, last, usual, level)
                parts[n - 1 : n + width + 1] = [(before[0], after[1], usual)]
                width = 0
                break
        width += 1
    lasting = parts[-1][2]
    for n in range(1, len(parts)):
        before, after = parts[n - 1], parts[n]
        begin = int(cells.at[after[0]])
        lasted = int(cells.at[-1]) + cells.width - begin
        led = begin - int(cells.at[0])
        window = int(cells.at[-1] - cells.at[0])
        if n == 1 and led < min(LEADING * window, DAY_US):
            leading = Event("incident", int(cells.at[0]), begin, before[2] - after[2], after[2],
                          before[2], gains[after[0]], _chance(gains[after[0]], count),
                          (0, after[0]))  # fmt: skip
            events.append(leading)
        elif n == len(parts) - 1 and lasted < MIN_STEP_US:
            add("incident", after[0], None, before[2], after[2])
            lasting = before[2]
        else:
            add("step", after[0], None, before[2], after[2])
    return events, lasting


def _chance(gain: float, places: float) -> float:
    """Return the probability that any of `places` squared normal values reaches the gain."""
    return min(places * math.erfc(math.sqrt(max(gain, 0.0) / 2)), 1.0)
