"""Mean, p95, total and trend of one metric in a window.

p95 is the quantile of numpy's default (linear interpolation between the two
samples around rank 0.95 * (n - 1)). From a histogram the two are known to
0.5 %, so it is within 1 %.

The trend is that of the hourly means: the Theil-Sen slope, which is the
median of the slopes between all pairs, and the Mann-Kendall test, two-sided
at 5 %, with the correction for ties. Without significance it is stable;
otherwise the sign of the slope and the metric's direction decide.
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from common.contracts.monitoring import Statistics, Trend
from metrics import histogram
from metrics.arrays import Floats
from metrics.units import lower_is_better, unit
from metrics.window import History

P95 = 0.95
# Two-sided, 5 %: the normal distribution's 97.5 % point.
SIGNIFICANT = 1.959963984540054
# Of four values in a row not even a strict order is significant at 5 % (2/4! = 8 %).
FEWEST_HOURS = 5
HOUR = 3_600_000_000
# Slopes that are computed together: 240 KB, which the processor's cache holds,
# and the allocator keeps; larger ones it would ask the system for each time.
MOST_TOGETHER = 30_000
# Up to so many slopes are just sorted; beyond it some drawn ones say where to
# look: one of 64, which takes a fraction of what it spares, from so many to so many.
MOST_KEPT = 20_000
DRAWN = 64
FEWEST_DRAWN, MOST_DRAWN = 4_096, 65_536


def summarise(metric: str, history: History) -> Statistics:
    """The statistics of what the window holds; nulls where that is nothing."""
    hours, count = history.hours, history.count
    if not count:
        return Statistics.model_construct(
            mean=None, p95=None, total=None, trend="insufficient_data", slope_per_day=None,
            minimum=None, maximum=None, count=0, exact=True, unit=unit(metric),
        )  # fmt: skip
    minimum, maximum = float(hours["minimum"].min()), float(hours["maximum"].max())
    if history.value is not None:
        total = float(history.value.sum())
        p95 = float(np.quantile(history.value, P95))
    else:
        total = math.fsum(hours["total"])
        p95 = min(max(histogram.quantile(history.bins, history.counts, P95), minimum), maximum)
    trend, slope = trend_of(metric, history)
    return Statistics.model_construct(
        mean=total / count,
        p95=p95,
        total=total,
        trend=trend,
        slope_per_day=slope,
        minimum=minimum,
        maximum=maximum,
        count=count,
        exact=history.value is not None,
        unit=unit(metric),
    )


def hourly_means(history: History) -> tuple[Floats, Floats]:
    """When (in hours) and how much, for each hour with samples."""
    hours = history.hours
    return hours["at"] / HOUR, hours["total"] / hours["count"]


def trend_of(metric: str, history: History) -> tuple[Trend, float | None]:
    """The trend, and its slope in the metric's unit per day."""
    times, means = hourly_means(history)
    if len(means) < FEWEST_HOURS:
        return "insufficient_data", None
    slope, score = theil_sen(times, means)
    if abs(mann_kendall(means, score)) <= SIGNIFICANT or slope == 0:
        return "stable", slope * 24
    return ("improving" if (slope < 0) == lower_is_better(metric) else "degrading"), slope * 24


def mann_kendall(values: Floats, score: int) -> float:
    """The test's statistic, about normally distributed where there is no trend.

    `score` is how many pairs rise, less how many fall.
    """
    n = len(values)
    ties = np.unique(values, return_counts=True)[1].astype(np.float64)
    variance = (n * (n - 1) * (2 * n + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()) / 18
    if score == 0 or variance == 0:
        return 0.0
    return float((score - math.copysign(1, score)) / math.sqrt(variance))


def theil_sen(times: Floats, values: Floats) -> tuple[float, int]:
    """The median of the slopes between all pairs, and how many more of them rise than fall.

    `times` are all different. The median lies between two bounds that some of
    the pairs give; only slopes between them are kept and sorted. 8,760 hours
    have 38 million pairs, of which that leaves 600,000. Slopes that equal
    a bound are counted, not kept: of a constant all of them do.
    """
    n = len(values)
    pairs = n * (n - 1) // 2
    low, high = _bounds(times, values) if pairs > MOST_KEPT else (-math.inf, math.inf)
    score = below = at_low = at_high = 0
    kept = []
    for slopes in _slopes(times, values):
        score += int(np.count_nonzero(slopes > 0)) - int(np.count_nonzero(slopes < 0))
        above_low, below_high = slopes > low, slopes < high
        less, more = int(np.count_nonzero(slopes < low)), int(np.count_nonzero(slopes > high))
        below += less
        at_low += len(slopes) - less - int(np.count_nonzero(above_low))
        at_high += len(slopes) - more - int(np.count_nonzero(below_high))
        kept.append(slopes[above_low & below_high])
    between = np.concatenate(kept)
    # Where both bounds are the same, what equals them is counted at both.
    end = below + at_low + len(between) + (at_high if high > low else 0)
    lower, upper = (pairs - 1) // 2, pairs // 2
    if lower < below or upper >= end:  # once in some ten thousand
        between = np.concatenate([slopes.copy() for slopes in _slopes(times, values)])
        below = at_low = 0
    inside = [rank - below - at_low for rank in sorted({lower, upper})]
    if kth := [rank for rank in inside if 0 <= rank < len(between)]:
        between.partition(kth)
    ends = [low if rank < 0 else high if rank >= len(between) else between[rank] for rank in inside]
    return float(np.mean(ends)) + 0.0, score  # 0 has no sign


def _slopes(times: Floats, values: Floats) -> Iterator[Floats]:
    """Each pair's slope once: everyone with the next, the one after, ... half-way round.

    What is yielded is overwritten by the next: new memory for each would take
    longer than the computation.
    """
    n = len(values)
    half = n // 2
    later = sliding_window_view(np.concatenate([values, values]), n)
    when = sliding_window_view(np.concatenate([times, times]), n)
    step = max(MOST_TOGETHER // n, 1)
    rises, runs = np.empty((step, n)), np.empty((step, n))
    for first in range(1, half + 1, step):
        last = min(first + step, half + 1)
        rise, run = rises[: last - first], runs[: last - first]
        with np.errstate(over="ignore"):
            np.subtract(later[first:last], values, out=rise)
            np.subtract(when[first:last], times, out=run)
            slopes = np.divide(rise, run, out=rise).ravel()
        # With an even number, those half-way round would meet twice.
        yield slopes[: len(slopes) - half] if n % 2 == 0 and last > half else slopes


def _bounds(times: Floats, values: Floats) -> tuple[float, float]:
    """Bounds that the median slope is between, but for a chance of 1 in 30,000 (4 sigma)."""
    n = len(values)
    drawn = min(max(n * (n - 1) // 2 // DRAWN, FEWEST_DRAWN), MOST_DRAWN)
    random = np.random.default_rng(n)  # the same for the same question
    first = random.integers(0, n, drawn)
    second = (first + random.integers(1, n, drawn)) % n
    slopes = (values[second] - values[first]) / (times[second] - times[first])
    margin = int(2 * math.sqrt(drawn))
    ends = [drawn // 2 - margin, drawn // 2 + margin]
    slopes.partition(ends)
    low, high = slopes[ends].tolist()
    return low, high
