"""Synthetic curves of latency against batch size, with the flaws of real ones.

Overhead that many samples share, then work in proportion; the point where one
becomes the other is anywhere. A quarter has a cliff: from one size on latency
is 15 to 140 % higher, for a few sizes or for all.
"""

import math
import random


def curve(order: random.Random, grid, *, cliff: bool) -> dict[int, float]:
    overhead = 10 ** order.uniform(-1, 1)
    each = overhead * 10 ** order.uniform(-2.7, -0.7)
    knee = order.choice(grid)
    steepness = order.uniform(0.95, 1.0)
    latency = {size: overhead * max(1.0, size / knee) ** steepness + each * size for size in grid}
    if cliff:
        start = order.randrange(2, len(grid))
        factor = order.uniform(1.15, 2.4)
        width = order.choice([1, 1, 2, 3, len(grid)])
        for size in grid[start : start + width]:
            latency[size] *= factor
    return {size: value * math.exp(order.gauss(0, 0.004)) for size, value in latency.items()}


def budget_for(order: random.Random, latency: dict[int, float]) -> float | None:
    """Draw a latency budget within the curve's range, or none."""
    share = order.choice([None, 0.25, 0.5])
    if share is None:
        return None
    low, high = latency[min(latency)], latency[max(latency)]
    return math.exp((1 - share) * math.log(low) + share * math.log(high)) * 1.0001
