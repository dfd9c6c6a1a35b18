"""What a model needs to run, worked out from its weights' headers and its config.

    weights      elements x bytes of the dtype it runs in (whole numbers keep their own)
    cache        2 x layers x key/value heads x head size x tokens x batch x bytes  (generation)
    activations  batch x tokens x (8 x hidden + 2 x intermediate) x bytes: one layer's, since
                 inference keeps no other; with the reference attention also
                 batch x heads x tokens^2 x 4; and batch x vocabulary x 4 of logits
    vram         (weights + cache + activations) x 1.1 (the allocator's rounding) + 640 MiB
                 (CUDA context and kernels of PyTorch 2.x, as nvidia-smi shows it)
    memory       with a GPU: weights + 2 GiB; without: weights + cache + activations, x 1.1, + 1 GiB
                 (an interpreter with torch and transformers takes 0.6 GiB)

A config that does not say its sizes is taken for activations of a quarter of
the weights per input. A measured peak replaces all this once there is one (measured.py).
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

from common.contracts.generation import Check, GenerateOptions, Measured
from common.errors import ModelRefused
from generator.snapshot import Snapshot
from generator.tasks import Task
from generator.weights import BYTES, Weights

MIB = 2**20
CUDA_CONTEXT = 640
ROUNDING = 1.1
# From here on a processor takes seconds per input, so a GPU is asked for unless told otherwise.
GPU_FROM = 500_000_000
# Longer than most inputs; a model's own limit may be 128k tokens, and each of them takes memory.
MOST_TOKENS = 8192
# Where a model names no limit.
USUAL_TOKENS = 2048
# A batch that the caller did not choose has no more than this: 8 inputs of the usual encoder.
BATCH_TOKENS = 4096
# These count positions from after the padding token's id, which is 1.
SHIFTED = frozenset(
    ("camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "longformer", "mpnet", "roberta")
) | {"xlm-roberta", "xlm-roberta-xl", "xmod"}
IMAGE_TOKENS = 1024
# Pulling the image counts against the network's limit: 8 GiB of CUDA and torch plus the weights,
# at the 250 Mbit/s that providers must have.
STACK = 8 * 2**30
PULL = 250e6 / 8
RUN_SECONDS = 1800
UNITS = {"MB": 1e6, "GB": 1e9, "Mi": 2**20, "MiB": 2**20, "Gi": 2**30, "GiB": 2**30}


@dataclass(frozen=True)
class Resources:
    """Sizes in MiB, times in seconds; `dtype` is torch's name for what a GPU computes in."""

    gpu: bool
    vram: int
    vram_source: Literal["headers", "measured", "requested"]
    memory: int
    cpu: int
    batch_size: int
    max_tokens: int
    dtype: str
    attention: Literal["sdpa", "eager"]
    compile: bool
    timeout: int
    execution_timeout: int
    measured: Measured | None = None


def estimate(
    snapshot: Snapshot,
    task: Task,
    options: GenerateOptions,
    *,
    largest_vram: int,
    largest_memory: int,
) -> tuple[Resources, list[Check]]:
    """What the module asks for, and warnings about it. Raises ModelRefused: too large."""
    weights = snapshot.weights
    assert weights
    config = snapshot.config
    level = options.optimization_level or "basic"
    gpu = weights.parameters >= GPU_FROM if options.gpu is None else options.gpu
    half = "bfloat16" if weights.is_half else "float16"
    dtype = half if gpu and level != "none" else "float32"
    width = 4 if dtype == "float32" else 2
    tokens = tokens_of(config, task)
    batch = options.batch_size or max(1, min(task.batch_size, BATCH_TOKENS // tokens))
    weighing = _weigh(weights, width)
    working = _working(
        config,
        task,
        batch=batch,
        tokens=tokens,
        width=width,
        eager=level == "none",
        weights=weighing,
    )

    vram = math.ceil((weighing + working) * ROUNDING / MIB) + CUDA_CONTEXT if gpu else 0
    needed = rounded_up(
        weighing / MIB + 2048 if gpu else (weighing + working) * ROUNDING / MIB + 1024
    )
    if vram > largest_vram:
        raise _too_large(f"{vram:,} MiB of GPU memory", f"{largest_vram:,}", "batchSize")
    if needed > largest_memory:
        raise _too_large(f"{needed:,} MiB of memory", f"{largest_memory:,}", "batchSize")
    memory = needed if options.memory is None else requested(options.memory)
    pull = math.ceil((STACK + weights.bytes) / PULL)
    resources = Resources(
        gpu=gpu,
        vram=vram,
        vram_source="requested" if options.gpu is False else "headers",
        memory=memory,
        cpu=4,
        batch_size=batch,
        max_tokens=tokens,
        dtype=dtype,
        attention="eager" if level == "none" else "sdpa",
        compile=level == "full",
        timeout=RUN_SECONDS,
        execution_timeout=RUN_SECONDS + pull,
    )
    return resources, [enough(memory, needed)]


def tokens_of(config: dict[str, Any], task: Task) -> int:
    """The longest input that the module takes, in tokens (patches, for an image)."""
    if task.takes == "image":
        image, patch = _whole(config, "image_size"), _whole(config, "patch_size")
        return (image // patch) ** 2 + 1 if image and patch else IMAGE_TOKENS
    most = _whole(config, "max_position_embeddings", "n_positions", "n_ctx") or USUAL_TOKENS
    if str(config.get("model_type")) in SHIFTED:
        most = max(most - 2, 1)
    return min(most, MOST_TOKENS)


def _weigh(weights: Weights, width: int) -> int:
    floating = ("F", "BF")
    return sum(
        count * (width if dtype.startswith(floating) else BYTES.get(dtype, 1))
        for dtype, count in weights.elements.items()
    )


def _working(
    config: dict[str, Any],
    task: Task,
    *,
    batch: int,
    tokens: int,
    width: int,
    eager: bool,
    weights: int,
) -> int:
    """Bytes of activations and cache."""
    hidden = _whole(config, "hidden_size", "d_model", "n_embd", "dim")
    layers = _whole(config, "num_hidden_layers", "n_layer", "n_layers", "num_layers")
    if not hidden or not layers:
        return batch * max(weights // 4, 64 * MIB)
    heads = _whole(config, "num_attention_heads", "n_head", "n_heads") or 1
    inner = _whole(config, "intermediate_size", "n_inner", "hidden_dim") or 4 * hidden
    vocabulary = _whole(config, "vocab_size") or 0
    size = batch * tokens * (8 * hidden + 2 * inner) * width + batch * vocabulary * 4
    if eager:
        size += batch * heads * tokens**2 * 4
    if task.generates:
        shared = _whole(config, "num_key_value_heads") or heads
        head = _whole(config, "head_dim") or max(hidden // heads, 1)
        size += 2 * layers * shared * head * tokens * batch * width
    return size


def _whole(config: dict[str, Any], *names: str) -> int | None:
    """The first of these that is a sensible number; configs are anyone's text."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= 10_000_000:
            return value
    return None


def requested(memory: str) -> int:
    """MiB of what a caller writes: 8GB, 16Gi."""
    digits = memory.rstrip("MGiB")
    return max(math.floor(int(digits) * UNITS[memory[len(digits) :]] / MIB), 1)


def rounded_up(mib: float) -> int:
    """Rounded up to 256 MiB, so that a detail of the estimate does not change the module."""
    return math.ceil(mib / 256) * 256


def enough(memory: int, needed: int) -> Check:
    """Whether what is asked for is what it needs, in MiB."""
    if memory >= needed:
        message = f"{memory:,} MiB of memory, {needed:,} estimated"
        return Check(name="memory", outcome="passed", message=message)
    return Check(
        name="memory",
        outcome="warning",
        message=f"memory: {memory:,} MiB is {needed - memory:,} MiB less than the {needed:,} MiB "
        "that the model is estimated to need; the network ends a job that takes more than it asked",
    )


def _too_large(needs: str, largest: str, knob: str) -> ModelRefused:
    return ModelRefused(
        f"the model needs about {needs}, more than the {largest} that a provider offers; "
        f"choose a smaller model or {knob}",
        reason="too-large",
    )
