"""The order in which batch sizes are timed.

Each size is timed in several short blocks; each round has one block of each size, in random order.
If the sizes were timed one after the other, a machine that slows down as it warms would make the
last size look bad.
"""

import math
import random
from dataclasses import dataclass

ROUNDS = 8
# A block is lost when its worker dies, and passes between two reports of progress.
MAX_BLOCK_CALLS = 32
# A block's report, with a moment per generated token, has to fit a message.
MAX_BLOCK_MOMENTS = 20_000


@dataclass(frozen=True)
class Block:
    round: int
    batch_size: int
    calls: int


def rounds_of(iterations: int, moments_per_call: int = 1) -> int:
    """Return the number of blocks into which a size's timed calls are divided."""
    fits = max(min(MAX_BLOCK_MOMENTS // moments_per_call, MAX_BLOCK_CALLS), 1)
    return min(iterations, max(ROUNDS, math.ceil(iterations / fits)))


def blocks(sizes: list[int], iterations: int, seed: int, moments_per_call: int = 1) -> list[Block]:
    """Return all blocks of a run in order; equal arguments give the same order.

    So a worker that takes over a run continues where the last one stopped.
    """
    rounds = rounds_of(iterations, moments_per_call)
    order = random.Random(seed)  # noqa: S311  (no secret)
    plan = []
    for number in range(rounds):
        calls = iterations * (number + 1) // rounds - iterations * number // rounds
        plan += [Block(number, size, calls) for size in order.sample(sizes, len(sizes))]
    return plan
