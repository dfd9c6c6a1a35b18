"""Statistics of a metric in a window: mean, p95, total, trend and slope.

p95 is the quantile of numpy's default (linear interpolation between the two
samples around rank 0.95 * (n - 1)). From a histogram the two are known to
0.5 %, so it is within 1 %.

The trend is what the series' shape says about now (metrics.shape). Its slope
is that of Theil and Sen: the median of the slopes between all pairs of hourly means.
"""

import math

import numpy as np

from common.contracts.monitoring import Statistics, Trend
from common.contracts.timestamps import HOUR_US
from metrics import histogram
from metrics.arrays import Floats
from metrics.findings import Changes
from metrics.shape.cells import median
from metrics.units import lower_is_better, unit
from metrics.window import History

P95 = 0.95
MIN_HOURS = 5
# Means in longer windows cover more hours: 120 means have 7,000 pairs, a tenth of a millisecond.
MAX_MEANS = 120
# Steps that add up to less than this share of the greatest cancel each other out.
MAX_REMAINDER = 0.3


def summarise(metric: str, history: History, changes: Changes | None = None) -> Statistics:
    """Summarise a window; the figures of an empty window are None."""
    hours, count = history.hours, history.count
    if not count:
        return Statistics.model_construct(
            mean=None, p95=None, total=None, trend="insufficient_data", slope_per_day=None,
            minimum=None, maximum=None, count=0, exact=True, unit=unit(metric),
        )  # fmt: skip
    # + 0.0: a recorded -0 is 0.
    minimum, maximum = float(hours["minimum"].min()) + 0.0, float(hours["maximum"].max()) + 0.0
    if history.value is not None:
        total = float(history.value.sum())
        p95 = float(np.quantile(history.value, P95)) + 0.0
    else:
        total = math.fsum(hours["total"])
        p95 = min(max(histogram.quantile(history.bins, history.counts, P95), minimum), maximum)
    slope = slope_per_day(history)
    return Statistics.model_construct(
        mean=total / count,
        p95=p95,
        total=total,
        trend=trend_of(metric, changes) if slope is not None else "insufficient_data",
        slope_per_day=slope,
        minimum=minimum,
        maximum=maximum,
        count=count,
        exact=history.value is not None,
        unit=unit(metric),
    )


def trend_of(metric: str, changes: Changes | None) -> Trend:
    """Return the trend of a metric from its lasting events."""
    if changes is None or changes.shape.cells is None:
        return "insufficient_data"
    lasting = [event for event in changes.events if event.end is None]
    slopes = [event.size for event in lasting if event.kind == "slope"]
    moves = slopes or [event.size for event in lasting]
    moved = math.fsum(moves)
    if not moves or abs(moved) < MAX_REMAINDER * max(map(abs, moves)):
        return "stable"
    return "improving" if (moved < 0) == lower_is_better(metric) else "degrading"


def slope_per_day(history: History) -> float | None:
    """Return the slope per day in the metric's unit; None for too few hours."""
    hours = history.hours
    if len(hours) < MIN_HOURS:
        return None
    first = np.arange(0, len(hours), -(-len(hours) // MAX_MEANS))
    counts = np.add.reduceat(hours["count"], first)
    means = np.add.reduceat(hours["total"], first) / counts
    lengths = np.diff(np.append(first, len(hours)))
    times = np.add.reduceat(hours["at"] / HOUR_US, first) / lengths
    return theil_sen(times, means) * 24


def theil_sen(times: Floats, values: Floats) -> float:
    """Return the median of the slopes between all pairs; `times` must be distinct."""
    slopes = _pairs(values) / _pairs(times)
    return median(slopes) + 0.0  # 0 has no sign


def _pairs(values: Floats) -> Floats:
    """Return the difference of each pair of values, in an order that depends only on their count.

    Each value is subtracted from the next half of the values, in a circle, which takes half the
    time of indexing pairs.
    """
    count = len(values)
    near = (count - 1) // 2
    round_ = np.concatenate([values, values[: near + 1]])
    windows = np.lib.stride_tricks.sliding_window_view(round_, near + 1)[:count]
    differences: Floats = (windows[:, 1:] - windows[:, :1]).ravel()
    if count % 2:
        return differences
    return np.concatenate([differences, values[count // 2 :] - values[: count // 2]])
