"""Search for the batch sizes to measure when the caller names none.

A quarter of real curves have a cliff: a size at which throughput falls, to rise again beyond. So
the search does not assume a single peak. It starts with a few sizes spread over the grid; then it
takes, each time, the size that could still be the best by interpolation between its measured
neighbours, plus a bonus for its distance from them; last come both neighbours of the optimal size.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Powers of two and half steps between, as far as larger batches usually pay.
GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Timed calls per size while searching; the chosen sizes get full rounds afterwards.
SEARCH_CALLS = 8
# Assumed gain over the interpolated throughput, per octave to the nearest measured size.
OPTIMISM = 0.03
# The first round measures every fourth size of the grid.
STRIDE = 4
# Latency, as a multiple of the interpolation, from which a size counts as a cliff.
CLIFF_RATIO = 1.12
# Share of the best throughput that the optimal size reaches when no budget bounds the batch.
GOOD_SHARE = 0.95


@dataclass(frozen=True)
class Sample:
    """Mean latency of a measured size in ms; None if the size does not fit."""

    latency: float | None


def next_size(
    samples: Mapping[int, Sample], grid: Sequence[int], budget: float | None
) -> int | None:
    """Return the size to measure next; None when the search is finished.

    Args:
        samples: samples so far, by size.
        grid: ascending.
        budget: maximum latency of a batch, in ms.
    """
    measured = {size: sample.latency for size, sample in samples.items() if sample.latency}
    full = min((size for size, sample in samples.items() if sample.latency is None), default=None)
    usable = [size for size in grid if full is None or size < full]
    if not usable:
        return None
    if usable[0] not in measured:
        return usable[0]
    if budget is not None and measured[usable[0]] > budget:
        return None  # even the smallest is too slow
    first = [*usable[::STRIDE], usable[-1]]
    for size in first:
        if size not in measured and _may_meet_budget(size, measured, budget):
            return size
    return _best_bet(usable, measured, budget)


def best(measured: Mapping[int, float], budget: float | None) -> int | None:
    """Return the smallest size of highest throughput within the budget; None if all are over it."""
    allowed = [size for size in measured if budget is None or measured[size] <= budget]
    return max(allowed, key=lambda size: (size / measured[size], -size), default=None)


def optimal(measured: Mapping[int, float], budget: float | None) -> int | None:
    """Return the best size within the budget; without one, the smallest within 5 %."""
    top = best(measured, budget)
    if top is None or budget is not None:
        return top
    enough = GOOD_SHARE * top / measured[top]
    return min(size for size in measured if size / measured[size] >= enough)


def _may_meet_budget(size: int, measured: Mapping[int, float], budget: float | None) -> bool:
    """Return whether a size may meet the latency budget.

    One smaller size that is too slow may be a cliff; two are not.
    """
    if budget is None:
        return True
    return sum(latency > budget and other < size for other, latency in measured.items()) < 2


def _best_bet(
    usable: Sequence[int], measured: Mapping[int, float], budget: float | None
) -> int | None:
    incumbent, chosen = best(measured, budget), optimal(measured, budget)
    assert incumbent is not None, "the smallest size is within the budget"
    assert chosen is not None
    to_beat = incumbent / measured[incumbent]
    if budget is None:
        # A better size matters only if the optimal one would no longer be nearly as good.
        to_beat = max(to_beat, chosen / measured[chosen] / GOOD_SHARE)
    bets = []
    for size in usable:
        if size in measured:
            continue
        latency = _expected(size, measured) / (1 + OPTIMISM * _octaves(size, measured))
        if (budget is None or latency <= budget) and size / latency > to_beat:
            bets.append((size / latency, size))
    if bets:
        return max(bets)[1]
    cliff = _beside_a_cliff(usable, measured, budget)
    if cliff is not None:
        return cliff
    return _neighbour(chosen, usable, measured)


def _neighbour(size: int, usable: Sequence[int], measured: Mapping[int, float]) -> int | None:
    """Return an unmeasured neighbour of a size; None when both are measured.

    The upper neighbour is the next size of the grid; the lower one is the middle of the gap to the
    next measured size, since any size in the gap may be as good, and smaller.
    """
    place = usable.index(size)
    above = usable[place + 1 : place + 2]
    if above and above[0] not in measured:
        return above[0]
    known = max((other for other in measured if other < size), default=0)
    gap = [other for other in usable[:place] if other > known]
    return gap[len(gap) // 2] if gap else None


def _beside_a_cliff(
    usable: Sequence[int], measured: Mapping[int, float], budget: float | None
) -> int | None:
    """Return an unmeasured size just below a sudden rise of latency, if it could be the best.

    Interpolation towards such a cliff overestimates the latency of the sizes before it.
    """
    incumbent = best(measured, budget)
    assert incumbent is not None
    known = sorted(measured)
    for before, cliff in itertools.pairwise(known):
        gap = [size for size in usable if before < size < cliff]
        if not gap:
            continue
        slope = math.log(measured[cliff] / measured[before]) / math.log(cliff / before)
        if slope < 1 + math.log(CLIFF_RATIO) / math.log(cliff / before):
            continue  # no worse than proportional
        top = gap[-1] / (measured[before] * gap[-1] / before)
        if top > incumbent / measured[incumbent]:
            return gap[-1]
    return None


def _expected(size: int, measured: Mapping[int, float]) -> float:
    """Estimate a latency from the measured neighbours, linearly on logarithmic axes."""
    known = sorted(measured)
    below = max((s for s in known if s < size), default=None)
    above = min((s for s in known if s > size), default=None)
    if below is None or above is None:
        # Outside the measured range: proportional to the size.
        nearest = known[-1] if above is None else known[0]
        return measured[nearest] * size / nearest
    share = math.log(size / below) / math.log(above / below)
    return math.exp((1 - share) * math.log(measured[below]) + share * math.log(measured[above]))


def _octaves(size: int, measured: Mapping[int, float]) -> float:
    return min(abs(math.log2(size / other)) for other in measured)
