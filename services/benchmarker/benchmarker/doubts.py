"""Reasons to distrust a figure, and a remedy for each.

A doubt is a sentence that begins with its kind: `noise: …`.
"""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarker.statistics import drift
from common.contracts.figures import Distribution, Point, Results
from common.contracts.measuring import Samples
from common.quantities import counted, percent

# A figure is suspect beyond these:
# change of the latency from the first call to the last, as a share;
MAX_DRIFT = 0.05
# disagreement of the host's clock and the device's, as a share;
MAX_CLOCK_DIFFERENCE = 0.02
# half the width of the mean's interval, as a share of the mean;
MAX_HALF_WIDTH = 0.10
# cores that other processes kept busy;
MAX_NEIGHBOUR_CORES = 0.2
# share of a measured ceiling.
MAX_SHARE = 1.1

REMEDIES = {
    "drift": "Measure again with a higher `warmup`, on a machine with steady clocks.",
    "noise": "Measure again with more `iterations`.",
    "clocks": "Measure again while the host's processor is idle: it delays the device.",
    "warm-up": "Measure again with a higher `warmup`: calls were still becoming faster.",
    "compile": "Leave `compile` out, or fix the model's graph breaks first.",
    "throttled": "Measure again where the clocks are not lowered: cool the machine, raise its power"
    " limit, or give the worker's container a larger share of the processor.",
    "ceilings": "Measure again while the machine is idle: its ceilings were measured too low.",
    "neighbours": "Measure again while nothing else runs on the machine.",
}


def of_size(
    wall_ms: NDArray[np.float64],
    latency: Distribution,
    by_device: Distribution | None,
    blocks: Sequence[Samples],
) -> list[str]:
    """Return the doubts about the timings of one size."""
    doubts = []
    change, real = drift(wall_ms)
    if real and abs(change) > MAX_DRIFT:
        doubts.append(
            f"drift: latency changed by {change * 100:+.0f} % from the first call to the last"
        )
    half = half_width(latency)
    if half is not None and half > MAX_HALF_WIDTH:
        doubts.append(
            f"noise: the mean is known only to within {percent(half)}; use more iterations"
        )
    if by_device and by_device.median and latency.median:
        apart = latency.median / by_device.median - 1
        if abs(apart) > MAX_CLOCK_DIFFERENCE:
            doubts.append(
                f"clocks: the host's clock differs by {apart * 100:+.1f} % from the device's; the"
                " host is in the way"
            )
    if any(block.steady is False for block in blocks):
        doubts.append("warm-up: calls were not steady yet when the timing began")
    if any(block.compiled is False for block in blocks):
        doubts.append("compile: torch.compile was asked for, but the model ran uncompiled")
    throttled = {reason for block in blocks for reason in block.throttled}
    if "quota" in throttled:
        doubts.append("throttled: the worker's container had used up its share of the processor")
    if lowered := sorted(throttled - {"quota"}):
        doubts.append(f"throttled: the clocks were lowered ({', '.join(lowered)})")
    return doubts


def of_shares(bandwidth: float | None, compute: float | None) -> list[str]:
    """Return the doubts about the reached shares of the device's peak bandwidth and compute."""
    doubts = []
    if compute is not None and compute > MAX_SHARE:
        doubts.append(
            f"ceilings: it computes at {percent(compute)} of the measured maximum; something held"
            " up the matrix product that measured it"
        )
    if bandwidth is not None and bandwidth > MAX_SHARE:
        doubts.append(
            f"ceilings: it reads at {percent(bandwidth)} of what copying reached; its weights stay"
            " in the caches, or something held up the copying"
        )
    return doubts


def of_run(blocks: Sequence[Samples], results: Results) -> list[str]:
    """Return the doubts that concern all of a run's figures."""
    doubts = []
    cores = [block.neighbours for block in blocks if block.neighbours is not None]
    if cores and max(cores) > MAX_NEIGHBOUR_CORES:
        doubts.append(
            f"neighbours: other processes kept {max(cores):.1f} cores busy on a machine of"
            f" {results.setup.machine.cores}"
        )
    sharing = max((block.sharing or 0 for block in blocks), default=0)
    if sharing:
        doubts.append(
            f"neighbours: {counted(sharing, 'other process', 'other processes')} used the GPU"
        )
    return doubts


def remedies(doubts: Iterable[str], point: Point) -> list[str]:
    """Return the remedies for doubts about a size or its run."""
    advice = {}
    for doubt in doubts:
        kind = doubt.partition(":")[0]
        advice[kind] = f"{REMEDIES[kind].removesuffix('.')} ({doubt})."
        half = half_width(point.latency)
        if kind == "noise" and half is not None:
            # The interval narrows with the root of the number of calls.
            needed = point.latency.samples * (half / MAX_HALF_WIDTH) ** 2
            advice[kind] = (
                f"Measure again with at least {_rounded_up(needed):,} `iterations`: with"
                f" {point.latency.samples:,} the mean is known only to within {percent(half)}."
            )
    return list(advice.values())


def half_width(latency: Distribution) -> float | None:
    """Return half the width of the mean's interval, as a share of the mean; None without one."""
    interval = latency.mean_interval
    if interval is None or not latency.mean:
        return None
    return (interval.high - interval.low) / 2 / latency.mean


def _rounded_up(number: float) -> int:
    """Round up to two significant digits."""
    step = int(10 ** max(len(str(int(number))) - 2, 0))
    return math.ceil(number / step) * step
