"""Memory of a batch size: estimated before any size runs, fitted to a line after two.

On a GPU, torch's allocator counts memory that grows linearly. On a CPU, memory grows linearly in a
process whose C library returns freed memory at once; a process that retains freed memory holds up
to twice as much for the same calls, at random.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from models.cache import cache_bytes, kinds_of_layers
from models.config import read, text_part
from models.dtypes import MIB
from models.sizes import footprint
from models.tasks import Task

# A size is skipped without a run only if its estimate exceeds the memory by this factor.
DOUBT = 2.0
# Sizes that run before a larger one, to predict its memory; after these, four times the last. Up to
# size 8, small models grow by up to a fifth more per sample than later.
FIRST_RUNGS = (1, 2, 4, 8, 16)


def static_estimate(
    config: Mapping[str, Any],
    task: Task,
    tokens: int,
    width: int,
    *,
    eager: bool,
    weights: int,
    shapes: Mapping[str, Sequence[int]],
) -> float:
    """Return the MiB that one sample needs beside the weights; 0 without a config.

    Args:
        config: the model's, as `to_dict` gives it; empty for a pipeline of diffusers.
        task: the model's row.
        tokens: of the input and generated; 0 for models that read no text.
        width: bytes of one number.
        eager: whether attention writes out its matrix.
        weights: bytes.
        shapes: of one input, by name.
    """
    if not config:
        return 0.0
    estimate = footprint(
        read(dict(config)), task, batch=1, tokens=tokens, width=width, eager=eager, weights=weights
    )
    inputs = sum(math.prod(shape) * 8 for shape in shapes.values())
    return (estimate.total + inputs) / MIB


def cache_reads(
    config: Mapping[str, Any], tokens: int, new_tokens: int, width: int
) -> float | None:
    """Return the bytes of keys and values that a call reads for each sample.

    Each generated token but the first attends to all tokens before it. Returns None if the model
    has another kind of state, or its config does not describe the cache.
    """
    known = read(dict(config))
    layers = kinds_of_layers(text_part(known))
    if layers is None or layers["linear_attention"]:
        return None
    # The number of an encoder's tokens is constant while the decoder's grows.
    apart = bool(config.get("is_encoder_decoder"))

    def bytes_of(count: int) -> int | None:
        return cache_bytes(known, batch=1, tokens=count, width=width)

    total = 0.0
    for step in range(1, new_tokens):
        own, before = bytes_of(step if apart else tokens + step), bytes_of(tokens)
        if own is None or before is None:
            return None
        total += (own + before) / 2 if apart else own
    return total


def rungs(sizes: Sequence[int]) -> list[int]:
    """Return the sizes to probe for memory, ascending: the requested sizes and some smaller."""
    largest = max(sizes)
    between = list(FIRST_RUNGS)
    while between[-1] * 4 < largest:
        between.append(between[-1] * 4)
    return sorted({*sizes, *(size for size in between if size < largest)})


def fit(peaks: Mapping[int, float]) -> tuple[float, float] | None:
    """Fit a line to peaks of memory; return `(base, per_sample)` in MiB, None below two sizes.

    The line goes through the largest size, and the largest size of at most half of it: the first
    few samples also cause setup. A slope below 0 is noise, and returned as 0.
    """
    if len(peaks) < 2:
        return None
    high = max(peaks)
    low = max((size for size in peaks if size <= high / 2), default=min(peaks))
    slope = (peaks[high] - peaks[low]) / (high - low)
    if slope <= 0:
        return max(peaks.values()), 0.0
    return peaks[high] - slope * high, slope


def foreseen(
    size: int, peaks: Mapping[int, float], available: float, estimate: tuple[float, float]
) -> float | None:
    """Predict the peak in MiB of a size that will not fit; return None if it may fit.

    Args:
        size: the batch size.
        peaks: MiB by batch size, of those that ran.
        available: MiB.
        estimate: `(base, per_sample)` in MiB, without a run.
    """
    fitted = fit(peaks)
    if fitted is None:
        predicted = estimate[0] + estimate[1] * size
        return predicted if predicted > DOUBT * available else None
    predicted = fitted[0] + fitted[1] * size
    # A size slightly above the limit is still tried: a wrong guess costs only one probe.
    return predicted if predicted > 1.1 * available else None
