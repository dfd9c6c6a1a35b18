"""The search for daily and weekly seasons and another wave, each seen at least twice."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Floats
from metrics.shape import wave as waves
from metrics.shape.cells import MEDIAN_DEVIATION, Cells, median, without_level

# A profile is a season if its mean square is at least this many times that of noise.
MIN_POWER_RATIO = 3.0
# A profile is also a season if one of its cells is this many standard errors from zero.
MIN_PEAK_ERRORS = 6.0
# A week's profile is judged in stretches of a quarter of a day. A stretch repeats if it is this
# many standard errors from zero.
MIN_STRETCH_ERRORS = 3.5
# With two weeks only, the smaller stretch must be at least this share of the greater.
MIN_WEEK_RATIO = 0.4
# The least error: less is rounding, or what a fit leaves of no noise. Values are of order 1.
EXACT = 1e-6
# The standard error of the median of n normal values, relative to that of their mean.
MEDIAN_ERROR = 1.2533


@dataclass(slots=True)
class Season:
    """The seasonal part of each cell: by time of day and day of the week, and of a wave.

    `week` holds a part for each cell of a week that begins with the cells' first day. A wave of
    another period is in `part` alone.
    """

    daily: bool
    weekly: bool
    part: Floats
    week: Floats
    wave: Floats | None = None

    def __bool__(self) -> bool:
        return self.daily or self.weekly or self.wave is not None

    @property
    def amplitude(self) -> float:
        """The amplitude of the wave."""
        return float(np.abs(self.wave).max()) if self.wave is not None else 0.0

    def scale(self, by: float) -> None:
        self.part *= by
        self.week *= by
        if self.wave is not None:
            self.wave *= by


def find(cells: Cells, values: Floats, known: Floats | None = None) -> Season:
    """Find the seasons of `values`, which has one value per cell.

    `known` is the wave if none is found: half a change that was removed may hide it.
    """
    first = int(cells.number[0])
    numbers = cells.number - first
    grid = np.full(int(numbers[-1]) + 1, np.nan)
    grid[numbers] = values
    missing = np.isnan(grid)
    day = cells.per_day
    places = (np.arange(len(grid)) + first) % (7 * day)
    week = np.zeros(7 * day)
    daily = weekly = False
    # A profile of one cell is a level.
    if day > 1 and len(grid) >= 2 * day:
        profile = _daily(_apart(grid, missing, day), first, day)
        if profile is not None:
            daily = True
            week += np.tile(profile, 7)
    if len(grid) >= 13 * day:
        profile = _weekly(_apart(grid - week[places], missing, 7 * day), first, day)
        if profile is not None:
            weekly = True
            week += profile
            if day > 1:
                # Repeated without the weekends, which distorted the profile.
                rest = _daily(_apart(grid - week[places], missing, day), first, day)
                if rest is not None:
                    daily = True
                    week += np.tile(rest, 7)
    season = Season(daily, weekly, week[places][numbers], week)
    season.wave = waves.find(numbers, values - season.part)
    if season.wave is None:
        season.wave = known
    if season.wave is not None:
        season.part = season.part + season.wave
    return season


def _apart(grid: Floats, missing: NDArray[np.bool_], period: int) -> Floats:
    """Subtract the local level: the median of a period around each cell."""
    if missing.any():
        grid = _filled(grid, missing, period)
    apart = without_level(grid, period)
    apart[missing] = np.nan
    return apart


def _filled(grid: Floats, missing: NDArray[np.bool_], period: int) -> Floats:
    """Fill gaps with the pattern of other periods, at the level on both sides."""
    usual, seen = _medians(_rows(grid, 0, period))
    usual = np.where(
        seen > 0, usual, np.interp(np.arange(period), np.flatnonzero(seen), usual[seen > 0])
    )
    repeated = np.resize(usual, len(grid))
    known = np.flatnonzero(~missing)
    rest = np.interp(np.arange(len(grid)), known, grid[known] - repeated[known])
    return np.where(missing, repeated + rest, grid)


def _rows(apart: Floats, first: int, period: int) -> Floats:
    """Return a row of values for each period, with nan where a cell is missing."""
    lead = first % period
    count = -(-(lead + len(apart)) // period)
    rows = np.full(count * period, np.nan)
    rows[lead : lead + len(apart)] = apart
    return rows.reshape(count, period)


def _medians(rows: Floats) -> tuple[Floats, Floats]:
    """Return the median of each column, and the number of its values."""
    ordered = np.sort(rows, axis=0)  # nan comes last
    counts = (~np.isnan(rows)).sum(axis=0)
    columns = np.arange(rows.shape[1])
    low = ordered[np.maximum(counts - 1, 0) // 2, columns]
    high = ordered[np.minimum(counts // 2, len(rows) - 1), columns]
    medians = (low + high) / 2
    return np.where(counts > 0, medians, 0.0), counts.astype(np.float64)


def _daily(apart: Floats, first: int, period: int) -> Floats | None:
    rows = _rows(apart, first, period)
    profile, counts = _medians(rows)
    seen = counts >= 2
    if not seen.any():
        return None
    spread, _ = _medians(np.abs(rows - profile))
    deviation = _pooled(spread[seen])
    # Scaled up: the remainder after a median of few days is less than their noise.
    least = np.sqrt(np.maximum(counts[seen], 2) / np.maximum(counts[seen] - 1, 1))
    error = MEDIAN_ERROR * deviation * least / np.sqrt(counts[seen])
    error = np.maximum(error, EXACT)
    clear = (profile[seen] / error) ** 2
    if clear.mean() < MIN_POWER_RATIO and clear.max() < MIN_PEAK_ERRORS**2:
        return None
    return np.where(seen, profile, 0.0)


def _weekly(apart: Floats, first: int, day: int) -> Floats | None:
    """Return the weekly pattern where it repeats, and 0 elsewhere; None if it repeats nowhere."""
    width = max(day // 4, 1)
    smooth = _smooth(apart, width)
    rows, stretches = _rows(apart, first, 7 * day), _rows(smooth, first, 7 * day)
    profile, counts = _medians(rows)
    typical, seen = _medians(stretches)
    spread, _ = _medians(np.abs(stretches - typical))
    deviation = _pooled(spread[seen >= 2]) if (seen >= 2).any() else 0.0
    deviation *= np.sqrt(2.0)  # of two weeks, the part between them and their mean
    error = np.maximum(MEDIAN_ERROR * deviation / np.sqrt(np.maximum(seen, 1)), EXACT)
    signs = np.sign(typical)
    with np.errstate(invalid="ignore"):
        same = np.nansum(np.sign(stretches) == signs, axis=0)
        sizes = np.sort(np.where(np.isnan(stretches), np.nan, stretches * signs), axis=0)
    least = sizes[0]
    largest = np.abs(typical) * 2 - least
    repeated = (seen >= 2) & (np.abs(typical) > MIN_STRETCH_ERRORS * error)
    repeated &= np.where(seen == 2, (least > MIN_WEEK_RATIO * largest), same >= 0.7 * seen)
    # A stretch includes every cell that was averaged for it.
    near = np.convolve(np.tile(repeated, 3), np.ones(width), "same")[7 * day : 14 * day] > 0
    near &= counts >= 2
    if not near.any():
        return None
    return np.where(near, profile, 0.0)


def _smooth(values: Floats, width: int) -> Floats:
    known = ~np.isnan(values)
    sums = np.convolve(np.where(known, values, 0.0), np.ones(width), "same")
    counts = np.convolve(known, np.ones(width), "same")
    return np.where(known, sums / np.maximum(counts, 1), np.nan)


def _pooled(spread: Floats) -> float:
    """Estimate the deviation of the noise, given the median absolute deviation of each column."""
    return float(np.sqrt(np.mean(np.minimum(spread, 3 * median(spread)) ** 2))) / MEDIAN_DEVIATION
