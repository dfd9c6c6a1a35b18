"""How much memory a batch size takes: estimated before it runs, fitted once two sizes have run.

What is fitted has to be a line. On a GPU it is, as torch keeps its own account there. On a CPU it
is in a process whose C library gives back at once what is freed (`GIVES_BACK`): one that keeps
what it may need again holds up to twice as much for the very same calls, at random.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

MIB = 2**20
# An estimate without a run may be off by this factor before a size is given up on.
DOUBT = 2.0
# Below so many bytes the C library keeps what is freed, and tensors that matter are larger. Timing
# does without: calls that take fresh memory each time are a tenth to a sixth slower.
GIVES_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
# Sizes that run before a larger one does, so that it can be foreseen; beyond, four times the last.
# From 8 to 16 small models grow as they do later, before that by up to a fifth more.
FIRST_RUNGS = (1, 2, 4, 8, 16)


def static_estimate(
    config: Mapping[str, Any],
    tokens: int | None,
    new_tokens: int | None,
    item: int,
    *,
    eager: bool,
    shapes: Mapping[str, Sequence[int]],
) -> float:
    """MiB that one sample adds to the weights: cache, logits, and the widest layer's activations.

    Args:
        config: the model's, as `to_dict` gives it.
        tokens: of the input; None for models that read no text.
        new_tokens: that are generated; None if none are.
        item: bytes of one number.
        eager: whether attention writes out its matrix.
        shapes: of one input, by name.
    """
    text = config.get("text_config") or config
    # Of pictures that shrink on their way, the first stage takes most.
    hidden = _first(text, "embed_dim", "hidden_size", "d_model", "n_embd", "dim", "hidden_sizes")
    hidden = (hidden[0] if isinstance(hidden, list) else hidden) or 0
    heads = _heads(text) or 0
    wide = _first(text, "intermediate_size", "d_ff", "n_inner", "hidden_dim") or 4 * hidden
    length = (tokens or _patches(config)) + (new_tokens or 0)
    activations = length * (wide + 4 * hidden) * item
    if eager:
        activations += heads * length * length * item
    cache = kv_cache_bytes(text, length, item) if new_tokens else 0
    # generate() asks for the last position's logits alone, and samples in float32.
    logits = (_first(text, "vocab_size") or 0) * 4 if new_tokens else 0
    inputs = sum(int(np.prod(shape)) * 8 for shape in shapes.values())
    return (activations + cache + logits + inputs) / MIB


def kv_cache_bytes(config: Mapping[str, Any], length: int, item: int) -> int:
    """Keys and values of one sequence; layers that slide keep their window alone.

    Of an encoder with a decoder they are the decoder's, of its own tokens and of the input's.
    """
    hidden = _first(config, "hidden_size", "d_model", "n_embd") or 0
    heads = _heads(config) or 1
    layers = _first(config, "decoder_layers", "num_decoder_layers") or _first(
        config, "num_hidden_layers", "n_layer", "num_layers"
    )
    kv_heads = _first(config, "num_key_value_heads") or heads
    width = _first(config, "head_dim", "d_kv") or hidden // heads
    window = _first(config, "sliding_window")
    kinds = config.get("layer_types") or ["full_attention"] * (layers or 0)
    positions = sum(
        min(length, window) if window and kind == "sliding_attention" else length
        for kind in kinds[:layers]
    )
    return 2 * positions * kv_heads * width * item


def cache_reads(config: Mapping[str, Any], tokens: int, new_tokens: int, item: int) -> float | None:
    """Bytes of keys and values that a call reads for each sample.

    Every token but the first is written looking back on all before it. None of a model that
    keeps something else: states of its own, or keys and values in another form.
    """
    text = config.get("text_config") or config
    kinds = set(text.get("layer_types") or ())
    if kinds - {"full_attention", "sliding_attention"} or text.get("kv_lora_rank"):
        return None
    if not _heads(text):
        return None
    steps = range(1, new_tokens)
    return float(sum(kv_cache_bytes(text, tokens + step, item) for step in steps))


def rungs(sizes: Sequence[int]) -> list[int]:
    """Sizes whose memory is measured, ascending: those asked for, and some below the largest."""
    largest = max(sizes)
    between = list(FIRST_RUNGS)
    while between[-1] * 4 < largest:
        between.append(between[-1] * 4)
    return sorted({*sizes, *(size for size in between if size < largest)})


def fit(peaks: Mapping[int, float]) -> tuple[float, float] | None:
    """`(base, per_sample)` in MiB of the line along which peaks grow; None of fewer than two.

    It goes through the largest size and the largest of at most half of it: what is set up once,
    by one of the first few samples, is no sample's own. A slope below 0 is noise around none.
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
    """The peak of a size that will not fit, in MiB; None if it may.

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
    # A little beyond the line still gets its chance: being wrong costs one probe.
    return predicted if predicted > 1.1 * available else None


def _patches(config: Mapping[str, Any]) -> int:
    vision = config.get("vision_config") or config
    image, patch = _first(vision, "image_size"), _first(vision, "patch_size")
    if not image or not patch:
        return 196  # of 224 x 224 in patches of 16
    if isinstance(image, list):
        image = max(image)
    if isinstance(patch, list):
        patch = min(patch)
    return int(image // patch) ** 2 + 1


def _heads(config: Mapping[str, Any]) -> int | None:
    heads: int | None = _first(
        config, "decoder_attention_heads", "num_attention_heads", "n_head", "n_heads", "num_heads"
    )
    return heads


def _first(config: Mapping[str, Any], *names: str) -> Any:
    """Families name the same thing differently."""
    return next((config[name] for name in names if config.get(name)), None)
