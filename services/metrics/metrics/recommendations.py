"""Sentences that a person can act on, each with the numbers that led to it; often none."""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta

import numpy as np

from common.contracts.monitoring import EPOCH, USUAL_METRICS
from metrics.arrays import Floats, Times
from metrics.units import lower_is_better, title, unit
from metrics.window import History

# A change that is smaller than this is not worth a person's time.
WORTH = 0.10
# Hours on each side of a change; fewer are an incident, and alerts are for those.
LONG_ENOUGH = 12
# How many times its standard error a change must be. The place is chosen
# among hundreds, so it is far beyond the 2 of a single comparison.
CLEAR = 6.0
MEMORY_NEAR = 0.9
LIMITS = {"memory_usage": "memory_limit", "gpu_memory_usage": "gpu_memory_limit"}
HOUR = 3_600_000_000
BATCH_COST = re.compile(r"cost_per_inference_batch_([1-9][0-9]{0,5})")


def recommend(histories: Mapping[str, History], latest: Mapping[str, float]) -> list[str]:
    """What to say about a model.

    Args:
        histories: by metric, the window.
        latest: by metric, the newest value ever, of limits, of the batch size
            in use and of the costs that were measured at each batch size.
    """
    return [
        *_regressions(histories),
        *_memory(histories, latest),
        *_batch_size(histories, latest),
    ]


def _regressions(histories: Mapping[str, History]) -> Iterator[str]:
    for metric in USUAL_METRICS:
        history = histories.get(metric)
        if history is None:
            continue
        change = find_change(history)
        if change is None:
            continue
        at, before, after = change
        worse = (after > before) == lower_is_better(metric)
        if not worse or before <= 0 or abs(after / before - 1) < WORTH:
            continue
        way = "higher" if after > before else "lower"
        day = f"{EPOCH + timedelta(microseconds=at):%Y-%m-%d %H:00} UTC"
        yield (
            f"{title(metric)} has been {abs(after / before - 1):.0%} {way} since {day}"
            f" ({_number(after, metric)} on average, {_number(before, metric)} before):"
            f" {ADVICE[metric]}."
        )


ADVICE = {
    "throughput": "look at what was deployed then, and at what else runs on the machine",
    "latency": "look at what was deployed then, and at what else runs on the machine",
    "memory_usage": "look for longer inputs, a larger batch, or a leak",
    "gpu_memory_usage": "look for longer inputs, a larger batch, or a leak",
    "cost_per_inference": "compare the price of the machine and the batch size with before",
}


def find_change(history: History) -> tuple[int, float, float] | None:
    """When the hourly means changed their level for good, and the levels before and after.

    Of all places, the one where the means on both sides differ most, in
    standard errors of the difference.
    """
    hours = history.hours
    n = len(hours)
    if n < 2 * LONG_ENOUGH:
        return None
    means: Floats = hours["total"] / hours["count"]
    sizes = np.arange(1, n)
    sums, squares = np.cumsum(means), np.cumsum(np.square(means - means.mean()))
    centred = np.cumsum(means - means.mean())[:-1]
    # Both sides' means, about the mean of all: they add up to nothing.
    difference = centred / sizes + centred / (n - sizes)
    within = squares[-1] - centred**2 / sizes - centred**2 / (n - sizes)
    deviation = np.sqrt(np.maximum(within, 0) / (n - 2) * (1 / sizes + 1 / (n - sizes)))
    floor = np.abs(means).max() * 1e-9  # all equal on both sides
    clarity = np.abs(difference) / np.maximum(deviation, floor or 1.0)
    clarity[: LONG_ENOUGH - 1] = clarity[n - LONG_ENOUGH :] = 0
    place = int(np.argmax(clarity))
    if clarity[place] < CLEAR:
        return None
    before = sums[place] / (place + 1)
    after = (sums[-1] - sums[place]) / (n - place - 1)
    at: Times = hours["at"]
    return int(at[place + 1]), float(before), float(after)


def _memory(histories: Mapping[str, History], latest: Mapping[str, float]) -> Iterator[str]:
    for metric, limit_name in LIMITS.items():
        history, limit = histories.get(metric), latest.get(limit_name, 0.0)
        if history is None or not history.count or limit <= 0:
            continue
        most = float(history.hours["maximum"].max())
        if most >= MEMORY_NEAR * limit:
            yield (
                f"{title(metric)} has reached {most:,.0f} of {limit:,.0f} MiB"
                f" ({most / limit:.0%}): use a smaller batch, shorter inputs or half precision,"
                " or give it more, before a request fails for lack of it."
            )


def _batch_size(histories: Mapping[str, History], latest: Mapping[str, float]) -> Iterator[str]:
    curve = {
        int(match[1]): cost
        for metric, cost in latest.items()
        if (match := BATCH_COST.fullmatch(metric)) and cost > 0
    }
    if not curve:
        return
    best = min(curve, key=lambda size: (curve[size], size))
    used = latest.get("batch_size", 0)
    if used in curve:
        compared, cost = f"at {used:.0f}, which is in use", curve[int(used)]
    else:
        history = histories.get("cost_per_inference")
        if history is None or not history.count:
            return
        compared = "on average now"
        cost = math.fsum(history.hours["total"]) / history.count
    if best != used and curve[best] < (1 - WORTH) * cost:
        yield (
            f"Batch size {best} would be {1 - curve[best] / cost:.0%} cheaper: an inference was"
            f" measured at ${curve[best]:.3g} with it, against ${cost:.3g} {compared}."
        )


def _number(value: float, metric: str) -> str:
    if unit(metric) == "USD":
        return f"${value:.3g}"
    return f"{value:,.4g} {unit(metric) or ''}".rstrip()
