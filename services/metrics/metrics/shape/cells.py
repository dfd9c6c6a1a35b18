"""Cells: time buckets of equal width, into which a history is divided to find its shape."""

import math
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.contracts.timestamps import DAY_US, HOUR_US
from metrics.arrays import Floats, Times
from metrics.window import bucket

# Divisors of a day, so that every day has the same cells; rare samples need wider ones.
WIDTHS_H = (1, 2, 3, 4, 6, 8, 12, 24)
# A year is divided into cells of three hours, which keeps an answer quick.
MAX_CELLS = 3_000
# A sample this far from the median of the five cells around it, in deviations, is an outlier.
OUTLIER = 4.0
# The least usual distance from that median, as a share of the noise of two neighbours.
SLOPED = 0.7
# The values at either end that have too few neighbours, from the outermost inwards, and the steps
# beside them that show a slope.
AT_FIRST, AT_LAST = (0, 1), (-1, -2)
BESIDE = 8
# The noise is at least this share of the greatest distance from the level; made-up series lack it.
TINY = 1e-3
# The mean of this many samples is not an outlier because one of them is.
DENSE = 8
# The extremes of an hour are clipped at this multiple of their usual distance from its mean.
EXTREME = 2.5
# A cell with a smaller share of the usual number of samples, beside a gap, is cut short.
FULL_CELL_SHARE = 0.95
# Half of the normal distribution lies within this many deviations.
MEDIAN_DEVIATION = 0.6745

# Fewer values are sorted in less time than they are partitioned.
MIN_PARTITIONED = 400

Ints = NDArray[np.int64]


@dataclass(slots=True)
class Cells:
    """Samples aggregated by cell, in order of time, without empty cells.

    Attributes:
        number: of the cell, counted from midnight of the first day.
        at: when it begins, in microseconds since 2000.
    """

    width: int
    number: Ints
    at: Times
    mean: Floats
    count: Floats

    def __len__(self) -> int:
        return len(self.at)

    @property
    def per_day(self) -> int:
        return DAY_US // self.width

    @property
    def dense(self) -> bool:
        return median(self.count) >= DENSE

    def without_cut(self, values: Floats, smooth: Floats | None) -> Floats:
        """Replace the value of each incomplete cell by that of the nearest complete cell.

        A season is known to a cell: a part of one has another mean, without any change. Beside a
        `smooth` season, it differs by no more than the season moves from cell to cell.
        """
        apart = np.diff(self.number) > 1
        beside = np.concatenate([[True], apart]) | np.concatenate([apart, [True]])
        cut = beside & (self.count < FULL_CELL_SHARE * median(self.count))
        whole = np.flatnonzero(~cut)
        if len(whole) == len(values) or not len(whole):
            return values
        places = np.flatnonzero(cut)
        found = np.searchsorted(whole, places)
        earlier = whole[np.maximum(found - 1, 0)]
        later = whole[np.minimum(found, len(whole) - 1)]
        near = np.abs(self.number[later] - self.number[places]) < np.abs(
            self.number[earlier] - self.number[places]
        )
        nearest = values[np.where(near, later, earlier)]
        distance = values[places] - nearest
        values = values.copy()
        values[places] = nearest
        if smooth is not None:
            moves = np.abs(np.diff(smooth, prepend=smooth[0], append=smooth[-1]))
            slack = np.maximum(moves[places], moves[places + 1])
            values[places] += np.sign(distance) * np.maximum(np.abs(distance) - slack, 0.0)
        return values

    def days(self) -> Floats:
        """Return the time of each cell in days, counted from the beginning of the first one.

        The samples of an incomplete cell at either end are in its inner part.
        """
        days = (self.at - self.at[0]) / DAY_US
        missing = np.maximum(1 - self.count[[0, -1]] / median(self.count), 0.0)
        days[[0, -1]] += np.array([0.5, -0.5]) * missing * self.width / DAY_US
        return np.asarray(days)

    def share(self) -> Floats:
        """Return each cell's share of the usual number of samples, at most 1."""
        share = self.count / median(self.count)
        return np.asarray(np.where(share < 0.5, share, 1.0))


def divide(hours: NDArray[Any]) -> Cells:
    """Combine hours into the narrowest cells that mostly have samples and are not too many."""
    at = hours["at"]
    span = int(at[-1] - at[0]) // HOUR_US + 1
    typical = median(np.diff(at).astype(np.float64)) / HOUR_US if len(at) > 1 else 1.0
    width = next((w for w in WIDTHS_H if w >= typical and span / w <= MAX_CELLS), WIDTHS_H[-1])
    hours = _tamed(hours)
    entries = hours if width == 1 else bucket(hours, timedelta(hours=width))
    start = int(entries["at"][0]) // DAY_US * DAY_US
    return Cells(
        width * HOUR_US,
        (entries["at"] - start) // (width * HOUR_US),
        entries["at"],
        entries["total"] / entries["count"],
        entries["count"].astype(np.float64),
    )


def _tamed(hours: NDArray[Any]) -> NDArray[Any]:
    """Return hours with means that are less affected by extreme samples."""
    many = hours["count"] >= DENSE
    if not many.any():
        return hours
    means = hours["total"] / hours["count"]
    above, below = hours["maximum"] - means, means - hours["minimum"]
    excess = np.maximum(above - EXTREME * median(above[many]), 0.0)
    excess -= np.maximum(below - EXTREME * median(below[many]), 0.0)
    tamed = hours.copy()
    tamed["total"] -= np.where(many, excess, 0.0)
    return tamed


def median(values: Floats) -> float:
    """Return the median, in a quarter to three quarters of numpy's time."""
    ordered, half = values.copy(), len(values) // 2
    if len(values) < MIN_PARTITIONED:
        ordered.sort()
    else:
        ordered.partition(half)
    if len(values) % 2:
        return float(ordered[half])
    return (float(ordered[:half].max()) + float(ordered[half])) / 2


def running_median(values: Floats, width: int, step: int = 1) -> Floats:
    """Return the median of the `width` values around every `step`-th value, and interpolate."""
    half = width // 2
    padded = np.concatenate([values[:half][::-1], values, values[::-1][: width - half - 1]])
    places = np.arange(0, len(values), step)
    if places[-1] != len(values) - 1:
        places = np.append(places, len(values) - 1)
    windows = padded[places[:, np.newaxis] + np.arange(width)]
    # numpy sorts short rows in a third of the time in which it finds their medians.
    windows.sort(axis=1)
    medians = (windows[:, (width - 1) // 2] + windows[:, width // 2]) / 2
    if step == 1:
        return np.asarray(medians)
    return np.asarray(np.interp(np.arange(len(values)), places, medians))


def without_level(values: Floats, period: int) -> Floats:
    """Subtract the local level, the median of a period around each value."""
    # Extended by a period on both sides, shifted by the level's change. Each window has every value
    # of a period once, so that a season alone does not affect its median.
    half = period // 2
    moved = median(values[period:] - values[:-period]) if len(values) > period else 0.0
    longer = np.concatenate(
        [values[period - half : period] - moved, values, values[-period : half - period] + moved]
    )
    level = running_median(longer, period, max(period // 8, 1))
    return np.asarray(values - level[half : half + len(values)])


def without_outliers(values: Floats) -> Floats:
    """Replace outliers, single values far from their neighbours, with the neighbours' median.

    The filter of Hampel: an outlier is no incident, but it could hide one.
    """
    if len(values) < 5:
        return values
    window = np.lib.stride_tricks.sliding_window_view(values, 5)
    middle = np.pad(_median_of_five(window), 2, mode="edge")
    steps = np.diff(values)
    # At an end, a slope continues beyond the median of the last five.
    for end, moved in ((AT_FIRST, -median(steps[:BESIDE])), (AT_LAST, median(steps[-BESIDE:]))):
        for place, away in zip(end, (2, 1), strict=True):
            beyond = middle[place] + away * moved
            if abs(values[place] - beyond) < abs(values[place] - middle[place]):
                middle[place] = beyond
    distance = np.abs(values - middle)
    # On a slope, most values are their neighbours' median, whatever the noise.
    noise = median(np.abs(steps - median(steps))) / math.sqrt(2)
    usual = max(median(distance), SLOPED * noise) / MEDIAN_DEVIATION
    # Next to a step, four of five values are on one side, so the step is not smoothed.
    usual = max(usual, TINY * float(np.abs(middle - median(middle)).max()))
    return np.where(distance > 1.3 * OUTLIER * usual, middle, values)


def _median_of_five(window: NDArray[np.float64]) -> Floats:
    """Return the median of each row of five, in a seventh of the time of `np.median`."""
    a, b, c, d, e = window.T
    low, high = np.minimum(a, b), np.maximum(a, b)
    low2, high2 = np.minimum(d, e), np.maximum(d, e)
    # Neither the smallest of the lower ends nor the largest of the upper ones is the median.
    x, y = np.maximum(low, low2), np.minimum(high, high2)
    return np.asarray(np.maximum(np.minimum(x, y), np.minimum(np.maximum(x, y), c)))
