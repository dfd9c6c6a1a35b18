"""Which batch sizes to measure when the caller names none.

A quarter of real curves have a cliff: a size at which throughput falls, to
rise again beyond. So nothing here assumes one peak. A few sizes spread over
the grid come first; then, each time, the size that could still be the best by
what its measured neighbours suggest, plus a bonus for being far from them;
and at the end both neighbours of the optimal one, whatever they promise.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

# Powers of two and half steps between, as far as it usually pays.
GRID = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
# Timed calls per size while searching; the sizes found get full rounds afterwards.
CALLS = 8
# How much better than the straight line an unmeasured size may be, per octave
# to the nearest measured one.
HOPE = 0.03
# Sizes from the first round: every so many on the grid.
STRIDE = 4
# A latency this far above the line between its neighbours is a cliff.
CLIFF = 1.12
# Throughput that is as good as the best: the share of it that the optimal size reaches, where no
# budget says how large a batch may be.
NEARLY = 0.95


@dataclass(frozen=True)
class Sample:
    """Mean latency of a batch in ms; None: the size does not fit."""

    latency: float | None


def next_size(seen: Mapping[int, Sample], grid: Sequence[int], budget: float | None) -> int | None:
    """The size to measure next; None when enough is known.

    Args:
        seen: what was measured so far, by size.
        grid: ascending.
        budget: latency of a batch that must not be exceeded, in ms.
    """
    measured = {size: sample.latency for size, sample in seen.items() if sample.latency}
    full = min((size for size, sample in seen.items() if sample.latency is None), default=None)
    usable = [size for size in grid if full is None or size < full]
    if not usable:
        return None
    if usable[0] not in measured:
        return usable[0]
    if budget is not None and measured[usable[0]] > budget:
        return None  # the smallest is too slow already
    first = [*usable[::STRIDE], usable[-1]]
    for size in first:
        if size not in measured and _hopeful(size, measured, budget):
            return size
    return _best_bet(usable, measured, budget)


def best(measured: Mapping[int, float], budget: float | None) -> int | None:
    """The size of the highest throughput within the budget; the smaller of two equals."""
    allowed = [size for size in measured if budget is None or measured[size] <= budget]
    return max(allowed, key=lambda size: (size / measured[size], -size), default=None)


def optimal(measured: Mapping[int, float], budget: float | None) -> int | None:
    """The best size within a budget; without one the smallest that is nearly as good as it."""
    top = best(measured, budget)
    if top is None or budget is not None:
        return top
    enough = NEARLY * top / measured[top]
    return min(size for size in measured if size / measured[size] >= enough)


def _hopeful(size: int, measured: Mapping[int, float], budget: float | None) -> bool:
    """Whether a size may be within the budget.

    Beyond one that is too slow it may: that one may be a cliff. Beyond two it hardly is.
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
        # A better one matters where the optimal size is then no longer nearly as good.
        to_beat = max(to_beat, chosen / measured[chosen] / NEARLY)
    bets = []
    for size in usable:
        if size in measured:
            continue
        latency = _expected(size, measured) / (1 + HOPE * _octaves(size, measured))
        if (budget is None or latency <= budget) and size / latency > to_beat:
            bets.append((size / latency, size))
    if bets:
        return max(bets)[1]
    cliff = _beside_a_cliff(usable, measured, budget)
    if cliff is not None:
        return cliff
    return _neighbour(chosen, usable, measured)


def _neighbour(size: int, usable: Sequence[int], measured: Mapping[int, float]) -> int | None:
    """The next size to measure until both neighbours of one are known; None when they are.

    Above it that is the next one. Below it is the middle of the gap: any size in there may be as
    good, and smaller.
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
    """The size below a cliff is measured, if it could be the best: the line to it lies too high."""
    incumbent = best(measured, budget)
    assert incumbent is not None
    known = sorted(measured)
    for before, cliff in itertools.pairwise(known):
        gap = [size for size in usable if before < size < cliff]
        if not gap:
            continue
        slope = math.log(measured[cliff] / measured[before]) / math.log(cliff / before)
        if slope < 1 + math.log(CLIFF) / math.log(cliff / before):
            continue  # no worse than in proportion
        top = gap[-1] / (measured[before] * gap[-1] / before)
        if top > incumbent / measured[incumbent]:
            return gap[-1]
    return None


def _expected(size: int, measured: Mapping[int, float]) -> float:
    """Latency on the line through the neighbours, on logarithmic axes."""
    known = sorted(measured)
    below = max((s for s in known if s < size), default=None)
    above = min((s for s in known if s > size), default=None)
    if below is None or above is None:
        # Beyond what was measured: in proportion to the size.
        nearest = known[-1] if above is None else known[0]
        return measured[nearest] * size / nearest
    share = math.log(size / below) / math.log(above / below)
    return math.exp((1 - share) * math.log(measured[below]) + share * math.log(measured[above]))


def _octaves(size: int, measured: Mapping[int, float]) -> float:
    return min(abs(math.log2(size / other)) for other in measured)
