"""Figures of text generation: time to the first token, gaps between tokens, tokens per second."""

from collections.abc import Sequence

import numpy as np

from benchmarker.statistics import NANOSECONDS_PER_MS, describe
from common.contracts.figures import GenerationUse


def describe_generation(
    wall: Sequence[int],
    steps: Sequence[Sequence[int]],
    batch_size: int,
    tokens: int | None,
) -> GenerationUse:
    """Return the figures of calls that generated tokens.

    A gap lies between two tokens of the same call. The time to the first token includes the whole
    prefill, so it is no gap; neither figure is a difference of two averages.

    Args:
        wall: nanoseconds of each call.
        steps: nanoseconds from each call's start to each of its tokens.
        batch_size: sequences per call.
        tokens: of one input.
    """
    moments = np.asarray(steps, dtype=np.float64)
    count = moments.shape[1]
    first = moments[:, 0]
    gaps = np.diff(moments, axis=1).ravel()
    decoding = float((moments[:, -1] - first).mean())
    return GenerationUse(
        time_to_first_token=describe(first / NANOSECONDS_PER_MS),
        inter_token_latency=describe(gaps / NANOSECONDS_PER_MS),
        prefill_tokens_per_second=_rate(batch_size * tokens, float(first.mean()))
        if tokens
        else None,
        decode_tokens_per_second=_rate(batch_size * (count - 1), decoding),
        tokens_per_second=_rate(batch_size * count, float(np.mean(wall))),
    )


def _rate(number: int, nanoseconds: float) -> float | None:
    """Return the rate per second; None if the number or the time is 0."""
    return number / nanoseconds * 1e9 if nanoseconds > 0 and number else None
