"""What the moments of tokens say: time to the first, gaps between the others, tokens per second."""

from collections.abc import Sequence

import numpy as np

from benchmarker.statistics import NANOSECONDS, describe
from common.contracts.figures import GenerationUse


def describe_generation(
    wall: Sequence[int],
    steps: Sequence[Sequence[int]],
    batch_size: int,
    tokens: int | None,
) -> GenerationUse:
    """Figures of calls that generated.

    A gap lies between two tokens of the same call; from one call's last token
    to the next call's first is no gap. The first token's time has the whole
    prefill in it, so it is no gap either, and neither figure is a difference
    of two averages.

    Args:
        wall: nanoseconds of each call.
        steps: for each call the moment of each token since its start, in ns.
        batch_size: sequences that a call generates.
        tokens: of one input.
    """
    moments = np.asarray(steps, dtype=np.float64)
    count = moments.shape[1]
    first = moments[:, 0]
    gaps = np.diff(moments, axis=1).ravel()
    decoding = float((moments[:, -1] - first).mean())
    return GenerationUse(
        time_to_first_token=describe(first / NANOSECONDS),
        inter_token_latency=describe(gaps / NANOSECONDS),
        prefill_tokens_per_second=_rate(batch_size * tokens, float(first.mean()))
        if tokens
        else None,
        decode_tokens_per_second=_rate(batch_size * (count - 1), decoding),
        tokens_per_second=_rate(batch_size * count, float(np.mean(wall))),
    )


def _rate(number: int, nanoseconds: float) -> float | None:
    """Per second; None where no time passed."""
    return number / nanoseconds * 1e9 if nanoseconds > 0 and number else None
