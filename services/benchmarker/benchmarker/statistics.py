"""Statistics of repeated timings, and their limits.

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

# Fewest timings that bound the percentile with 99 % confidence, by MLPerf's early stopping rule
# with one outlier discarded. Reported is the sample's own percentile, not that bound.
SAMPLES_FOR = {"p90": 64, "p95": 130, "p99": 662}
PERCENT = {"p90": 90, "p95": 95, "p99": 99}
NANOSECONDS_PER_MS = 1e6
# With fewer timings, neither spread nor drift can be estimated.
MIN_FOR_SPREAD = 3
MIN_FOR_DRIFT = 9


def describe(milliseconds: Sequence[float] | Floats) -> Distribution:
    """Describe timings, given in milliseconds and in the order of measurement."""
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
            missing[name] = f"needs {needed} samples, got {count}"
    spread: dict[str, Any] = {}
    if count < MIN_FOR_SPREAD:
        reason = f"needs {MIN_FOR_SPREAD} samples, got {count}"
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
    """Return the autocorrelation at lag 1, corrected for short samples (Kendall's bias)."""
    centred = values - values.mean()
    power = float(centred @ centred)
    if power == 0:
        return 0.0
    raw = float(centred[:-1] @ centred[1:]) / power
    count = len(values)
    return float(np.clip(raw + (1 + 3 * raw) / count, -0.99, 0.99))


def statistical_inefficiency(values: Floats) -> float:
    """Return how many timings equal one independent timing: (1 + rho) / (1 - rho), 1 or more.

    That holds for a first-order process; negative correlation is ignored.
    """
    rho = max(autocorrelation(values), 0.0)
    return min((1 + rho) / (1 - rho), len(values) / 2)


def mean_interval(values: Floats, inefficiency: float) -> Interval:
    """Return the 95 % interval of the mean, by Student's t over the independent timings."""
    effective = len(values) / inefficiency
    # The sample variance of a correlated series is too small by this factor.
    variance = values.var(ddof=1) * (len(values) - 1) / max(len(values) - inefficiency, 1)
    half = float(stdtrit(max(effective - 1, 1), 0.975)) * math.sqrt(variance / effective)
    mean = float(values.mean())
    return Interval(low=max(mean - half, 0.0), high=mean + half)  # a time is not negative


def median_interval(values: Floats) -> Interval:
    """Return the 95 % interval of the median, by order statistics.

    The ranks are spread by the autocorrelation of the signs, which is less than that of the
    values: by the arcsine law, which holds for a Gaussian process.
    """
    count = len(values)
    ordered = np.sort(values)
    rho = max(autocorrelation(values), 0.0)
    signs = 2 / math.pi * np.arcsin(rho ** np.arange(1, count))
    inefficiency = min(1 + 2 * float(signs.sum()), count / 2)
    half = 1.959964 * math.sqrt(count * inefficiency) / 2
    # Interpolated linearly between order statistics: whole ranks would make the interval too wide.
    ranks = np.arange(1, count + 1) - (count + 1) / 2
    low, high = np.interp([-half, half], ranks, ordered)
    return Interval(low=float(low), high=float(high))


def drift(values: Floats) -> tuple[float, bool]:
    """Return the change from the first timing to the last, and whether it is significant.

    A machine that warms drifts along a line; one whose clocks are lowered makes a step. So two
    things are tested: whether the line through the timings rises or falls, and whether the last
    third's mean differs from the first third's. The scatter is that around the line, or around
    the thirds' means: a drift makes successive timings alike, and would hide behind the
    autocorrelation of the whole.

    Returns:
        The change as a share of where it began, above -1, and whether a 99 % interval leaves out
        0. It is that along the line, or between the thirds where the line is too steep to be one.
    """
    count = len(values)
    if count < MIN_FOR_DRIFT:
        return 0.0, False
    time = np.linspace(-0.5, 0.5, count)
    slope = float(time @ values) / float(time @ time)
    around_line = values - values.mean() - slope * time
    line = _surely(slope, around_line, 2, 1 / float(time @ time))
    thirds = np.array_split(values, 3)
    around_thirds = np.concatenate([third - third.mean() for third in thirds])
    apart = float(thirds[2].mean() - thirds[0].mean())
    step = _surely(apart, around_thirds, 3, 6 / count)
    mean = float(values.mean())
    along_line = abs(slope) < mean
    change = slope / (mean - slope / 2) if along_line else apart / float(thirds[0].mean())
    return change, line or step


def _surely(estimate: float, scatter: Floats, fitted: int, leverage: float) -> bool:
    """Return whether an estimate's 99 % interval excludes 0.

    Args:
        estimate: its standard error is the scatter's, times the root of `leverage`.
        scatter: residuals of the timings.
        fitted: number of fitted parameters.
        leverage: that of independent timings.
    """
    inefficiency = statistical_inefficiency(scatter)
    count = len(scatter)
    variance = float(scatter @ scatter) / max(count - fitted * inefficiency, 1)
    error = math.sqrt(variance * leverage * inefficiency)
    freedom = max(count / inefficiency - fitted, 1)
    return abs(estimate) > float(stdtrit(freedom, 0.995)) * error
