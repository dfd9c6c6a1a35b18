"""In which order batch sizes are timed.

Each size is timed in several short blocks, and every round has one block of
each size in random order. Were the sizes timed one after the other, a machine
that slows down as it warms would make the last size look bad.
"""

import math
import random
from dataclasses import dataclass

ROUNDS = 8
# Of a block: what is lost when a worker dies, and what passes between two signs of progress.
MOST_CALLS = 32
# Of one block's report: with a moment per generated token it still fits a message.
MOST_MOMENTS = 20_000


@dataclass(frozen=True)
class Block:
    round: int
    batch_size: int
    calls: int


def rounds_of(iterations: int, moments_per_call: int = 1) -> int:
    """How many blocks the timed calls of a size are spread over."""
    fits = max(min(MOST_MOMENTS // moments_per_call, MOST_CALLS), 1)
    return min(iterations, max(ROUNDS, math.ceil(iterations / fits)))


def blocks(sizes: list[int], iterations: int, seed: int, moments_per_call: int = 1) -> list[Block]:
    """Every block of a run, in its order; the same for the same arguments.

    So a worker that takes a run over goes on where the last one stopped.
    """
    rounds = rounds_of(iterations, moments_per_call)
    order = random.Random(seed)  # noqa: S311  (no secret)
    plan = []
    for number in range(rounds):
        calls = iterations * (number + 1) // rounds - iterations * number // rounds
        plan += [Block(number, size, calls) for size in order.sample(sizes, len(sizes))]
    return plan
