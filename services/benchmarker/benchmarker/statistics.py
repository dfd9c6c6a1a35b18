"""What can be said of repeated timings, and what cannot.

Successive timings are not independent: a slow moment slows several calls. An
interval that ignores this is too narrow, so the sample counts for as many
independent ones as its autocorrelation leaves of it. Percentiles stand only
where the sample is large enough to bound them (`reference/measurement.md` in
the documentation has the derivation of the numbers).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from common.contracts.figures import Distribution, Interval

Floats = NDArray[np.float64]

# So few that, by MLPerf's early stopping rule with one outlier discarded, a bound of the percentile
# stands with 99 % confidence. What is reported is the sample's own percentile, not that bound.
SAMPLES_FOR = {"p90": 64, "p95": 130, "p99": 662}
PERCENT = {"p90": 90, "p95": 95, "p99": 99}
NANOSECONDS = 1e6  # in a millisecond
# Fewer say nothing about the spread.
FEWEST = 3


def describe(milliseconds: Sequence[float] | Floats) -> Distribution:
    """All figures of one sample in the order it was taken, in milliseconds."""
    values = np.asarray(milliseconds, dtype=np.float64)
    count = len(values)
    if count == 0:
        nothing = "nothing was timed"
        return Distribution(samples=0, missing={"mean": nothing, "median": nothing})
    missing = {}
    percentiles: dict[str, float | None] = {}
    for name, needed in SAMPLES_FOR.items():
        if count >= needed:
            percentiles[name] = float(np.percentile(values, PERCENT[name]))
        else:
            percentiles[name] = None
            missing[name] = f"needs {needed} samples, there are {count}"
    spread: dict[str, Any] = {}
    if count < FEWEST:
        reason = f"needs {FEWEST} samples, there are {count}"
        missing |= dict.fromkeys(("standardDeviation", "meanInterval", "medianInterval"), reason)
    else:
        inefficiency = statistical_inefficiency(values)
        spread = {
            "effective_samples": count / inefficiency,
            "autocorrelation": autocorrelation(values),
            "standard_deviation": float(values.std(ddof=1)),
            "mean_interval": mean_interval(values, inefficiency),
            "median_interval": median_interval(values),
        }
    median = float(np.median(values))
    return Distribution(
        samples=count,
        mean=float(values.mean()),
        median=median,
        p50=median,
        missing=missing,
        **percentiles,
        **spread,
    )


def autocorrelation(values: Floats) -> float:
    """At lag 1, corrected for the bias of short samples (Kendall: -(1 + 3 rho) / n)."""
    centred = values - values.mean()
    power = float(centred @ centred)
    if power == 0:
        return 0.0
    raw = float(centred[:-1] @ centred[1:]) / power
    count = len(values)
    return float(np.clip(raw + (1 + 3 * raw) / count, -0.99, 0.99))


def statistical_inefficiency(values: Floats) -> float:
    """Timings per independent timing, 1 or more: (1 + rho) / (1 - rho).

    Of a first-order process; negative correlation is not taken as a gift.
    """
    rho = max(autocorrelation(values), 0.0)
    return min((1 + rho) / (1 - rho), len(values) / 2)


def mean_interval(values: Floats, inefficiency: float) -> Interval:
    """95 % by Student's t, with as many degrees of freedom as independent timings."""
    effective = len(values) / inefficiency
    # The sample variance of a correlated series is too small by this factor.
    variance = values.var(ddof=1) * (len(values) - 1) / max(len(values) - inefficiency, 1)
    half = float(stdtrit(max(effective - 1, 1), 0.975)) * math.sqrt(variance / effective)
    mean = float(values.mean())
    return Interval(low=max(mean - half, 0.0), high=mean + half)  # a time is not negative


def median_interval(values: Floats) -> Interval:
    """95 % by order statistics, the ranks spread as the correlation of the signs asks for.

    Above or below the median is less correlated than the values themselves:
    by the arcsine law, which holds for a Gaussian process.
    """
    count = len(values)
    ordered = np.sort(values)
    rho = max(autocorrelation(values), 0.0)
    signs = 2 / math.pi * np.arcsin(rho ** np.arange(1, count))
    inefficiency = min(1 + 2 * float(signs.sum()), count / 2)
    half = 1.959964 * math.sqrt(count * inefficiency) / 2
    # Between two order statistics by a straight line: whole ranks would be too wide.
    ranks = np.arange(1, count + 1) - (count + 1) / 2
    low, high = np.interp([-half, half], ranks, ordered)
    return Interval(low=float(low), high=float(high))


def drift(values: Floats) -> tuple[float, bool]:
    """The change from the first to the last timing along a straight line, and if it is real.

    A machine that warms drifts along a line; one whose clocks are lowered makes a step. So two
    things are asked: whether the line surely rises, and whether the last third's mean surely
    differs from the first third's. The scatter is that around the line, or around the thirds'
    means: a drift makes successive timings alike, and would hide behind the autocorrelation of
    the whole.

    Returns:
        The change as a share of the mean, and whether a 99 % interval leaves out 0.
    """
    count = len(values)
    if count < 9:
        return 0.0, False
    time = np.linspace(-0.5, 0.5, count)
    slope = float(time @ values) / float(time @ time)
    around_line = values - values.mean() - slope * time
    line = _surely(slope, around_line, 2, 1 / float(time @ time))
    thirds = np.array_split(values, 3)
    around_thirds = np.concatenate([third - third.mean() for third in thirds])
    apart = float(thirds[2].mean() - thirds[0].mean())
    step = _surely(apart, around_thirds, 3, 6 / count)
    return slope / float(values.mean()), line or step


def _surely(estimate: float, scatter: Floats, fitted: int, leverage: float) -> bool:
    """Whether an estimate's 99 % interval leaves out 0.

    Args:
        estimate: its standard error is the scatter's, times the root of `leverage`.
        scatter: what is left of the timings when what was fitted is taken away.
        fitted: how many numbers that were.
        leverage: as it would be of independent timings.
    """
    inefficiency = statistical_inefficiency(scatter)
    count = len(scatter)
    variance = float(scatter @ scatter) / max(count - fitted * inefficiency, 1)
    error = math.sqrt(variance * leverage * inefficiency)
    freedom = max(count / inefficiency - fitted, 1)
    return abs(estimate) > float(stdtrit(freedom, 0.995)) * error
