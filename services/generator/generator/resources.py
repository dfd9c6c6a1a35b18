"""The resources that a model needs, computed from its weights' headers and configs.

    weights      elements x bytes of the dtype it runs in (whole numbers keep their own)
    working      cache, logits and activations: `models.sizes`
                 (x 1.3 for an ONNX file, of which onnxruntime holds a part twice while it loads)
    vram         (weights + working) x 1.1 (the allocator's rounding) + 640 MiB
                 (CUDA context and kernels of PyTorch 2.x, as nvidia-smi shows it)
    memory       with a GPU: weights + 2 GiB; without: weights + working, x 1.1, + 1 GiB
                 (an interpreter with torch and transformers takes 0.6 GiB)
    disk         the image's libraries (with CUDA 8 GiB, else 2), and the weights' files; an image
                 for processors has no CUDA where `cpu_torch_index` has a build of torch without
    time         half an hour for a request, and the pull of the image

Each figure says where it came from: `Resources.sources`. A measured peak replaces vram or memory
once there is one (measured.py).
"""

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from common.contracts.generation import Accepted, Check, GenerateOptions, Measured
from common.errors import ModelRefused
from generator.snapshot import Snapshot
from generator.weights import Weights
from models import config as configs
from models import sizes
from models.config import Config, text_part
from models.dtypes import (
    GIB,
    MIB,
    OVERFLOW_IN_FLOAT16,
    STORED_BYTES,
    is_floating,
    kept_in_float32,
    to_mib,
)
from models.families import FAMILIES
from models.pipelines import pipeline_of
from models.tasks import Task

CUDA_CONTEXT_MIB = 640
ROUNDING = 1.1
# onnxruntime parses an ONNX file and then makes its own copy of the weights: one of 415 MiB took
# 538 at most while it was loaded, and one of 86 MiB 83.
ONNX_LOADING = 1.3
# Parameters from which a CPU takes seconds per input, so that the default is a GPU.
MIN_GPU_PARAMETERS = 500_000_000
# Most tokens in a default batch: 8 inputs of a typical encoder.
BATCH_TOKENS = 4096
# The image without the weights: Python, torch and the other packages. With CUDA 8 GiB; without, the
# packages of a stack take up to 1.4 GiB and Debian's Python 0.2, a compiler another 1.
STACK_BYTES = {"cuda": 8 * GIB, "cpu": 2 * GIB, "compiler": GIB}
# Pulling the image counts against both of the network's limits, at the 250 Mbit/s that providers
# must have: the job's (Bacalhau 1.6 starts its clock before the pull) and the deal's.
PULL_BYTES_PER_S = 250e6 / 8
DEFAULT_RUN_S = 1800
# The solver's default for a whole deal (Lilypad 2.23, pkg/options/timeout.go).
MAX_DEAL_S = 7200
Source = Literal["headers", "measured", "requested"]
MEANT = {
    "headers": "the weights' headers and the model's configs, by the formula of the reference",
    "measured": "the peak of the run that `measured` names",
    "requested": "the options of the request",
}


@dataclass(frozen=True)
class Resources:
    """A module's resources: sizes in MiB, times in seconds, `dtype` as on a GPU."""

    gpu: bool
    vram: int
    vram_source: Source
    memory: int
    memory_source: Source
    disk: int
    cpu: int
    batch_size: int
    max_tokens: int
    dtype: str
    attention: Literal["sdpa", "eager"]
    compile: bool
    timeout: int
    execution_timeout: int
    torch_index: str | None = None
    measured: Measured | None = None
    # Tokens that llama.cpp reads at once where it computes vectors.
    batch_tokens: int | None = None
    # The parts of the estimate of the device's memory.
    parts: str = ""

    @property
    def sources(self) -> dict[str, str]:
        """Return the source of each figure, by its name in module.yaml."""
        counted = {**MEANT, "headers": f"{self.parts}; by the formula of the reference"}
        return {
            "cpu": "what providers offer one job; twice that for a large model without a GPU",
            "memoryMiB": (MEANT if self.gpu else counted)[self.memory_source],
            "vramMiB": counted[self.vram_source] if self.gpu else "no GPU requested",
            "diskMiB": "the image's libraries, and the weights' files",
            "timeout": "half an hour for one request",
            "executionTimeout": "timeout, and the pull of diskMiB at 250 Mbit/s",
        }


def settle_batch(task: Task, options: GenerateOptions) -> tuple[GenerateOptions, list[Check]]:
    """Set the batch size to 1 if the task's modules do not batch; warn if it was higher."""
    if FAMILIES[task.family].batches:
        return options, []
    check = Check(
        name="batchSize",
        outcome="warning",
        message=f"modules for {task.tag} answer one input after the other: batchSize is 1",
    )
    wanted = (options.batch_size or 1) > 1
    return options.model_copy(update={"batch_size": 1}), [check] if wanted else []


@dataclass(frozen=True)
class Size:
    """Size of the weights in bytes, and the memory that a module requests, in MiB."""

    weights: int
    working: sizes.Footprint
    vram: int
    memory: int


def estimate(
    snapshot: Snapshot,
    task: Task,
    options: GenerateOptions,
    *,
    max_vram_mib: int,
    max_host_memory_mib: int,
    accept: Collection[Accepted] = (),
    cpu_torch_index: str | None = None,
) -> tuple[Resources, list[Check]]:
    """Estimate the module's resources; return them with warnings about them.

    Raises ModelRefused if no provider could run the model with any options, unless `accept` allows
    it. If only these options are too large, a warning says by how much.
    """
    weights = snapshot.weights
    assert weights
    level = options.optimization_level or "basic"
    gpu = weights.parameters >= MIN_GPU_PARAMETERS if options.gpu is None else options.gpu
    kinds = kinds_of(snapshot.config)
    unsafe = not OVERFLOW_IN_FLOAT16.isdisjoint(kinds) or pipeline_of(snapshot.config).bfloat16
    half = "bfloat16" if weights.is_half or unsafe else "float16"
    dtype = half if gpu and level != "none" else "float32"
    config = configs.complete(snapshot.config)
    tokens = sizes.tokens_of(config, task)
    batch = options.batch_size or max(1, min(task.batch_size, BATCH_TOKENS // tokens))

    def size(batch: int, *, gpu: bool, width: int, eager: bool) -> Size:
        weighed = weigh(weights, width, kept_in_float32(kinds, half if width == 2 else "float32"))
        if "onnx" in snapshot.config:
            weighed = math.ceil(weighed * ONNX_LOADING)
        working = sizes.footprint(
            config, task, batch=batch, tokens=tokens, width=width, eager=eager, weights=weighed
        )
        return _size(weighed, working, gpu=gpu)

    def too_large(candidate: Size) -> int:
        return max(candidate.vram - max_vram_mib, candidate.memory - max_host_memory_mib, 0)

    constraints: dict[str, Any] = {
        "gpu": gpu,
        "width": 4 if dtype == "float32" else 2,
        "eager": level == "none",
    }
    sized = size(batch, **constraints)
    while options.batch_size is None and batch > 1 and too_large(sized):
        batch //= 2
        sized = size(batch, **constraints)
    checks = []
    if over := too_large(sized):
        card = size(1, gpu=True, width=2, eager=False)
        # Without a GPU the model may still fit a machine's memory.
        possible = not too_large(card) or (
            not gpu and not too_large(size(1, gpu=False, width=4, eager=False))
        )
        if not possible and "too-large" not in accept:
            raise _too_large(card.vram, max_vram_mib)
        checks.append(_over(sized, over))
    vram, needed = sized.vram, sized.memory
    memory = needed if options.memory is None else to_mib(options.memory)
    compiled = level == "full"
    torch_index = None if gpu else cpu_torch_index
    stack = STACK_BYTES["cpu" if torch_index else "cuda"]
    disk = stack + STACK_BYTES["compiler"] * (compiled and not gpu) + weights.bytes
    execution_timeout = DEFAULT_RUN_S + math.ceil(disk / PULL_BYTES_PER_S)
    if execution_timeout > MAX_DEAL_S:
        checks.append(too_long(execution_timeout))
    resources = Resources(
        gpu=gpu,
        vram=vram,
        vram_source="requested" if options.gpu is False else "headers",
        memory=memory,
        memory_source="headers" if options.memory is None else "requested",
        disk=rounded_up(disk / MIB),
        cpu=4 if gpu or weights.parameters < MIN_GPU_PARAMETERS else 8,
        batch_size=batch,
        max_tokens=tokens,
        dtype=dtype,
        attention="eager" if level == "none" else "sdpa",
        compile=compiled,
        timeout=DEFAULT_RUN_S,
        execution_timeout=execution_timeout,
        torch_index=torch_index,
        parts=_explain(sized),
    )
    return resources, [enough(memory, needed), *checks]


def _size(weights: int, working: sizes.Footprint, *, gpu: bool) -> Size:
    peak = (weights + working.total) * ROUNDING / MIB
    return Size(
        weights=weights,
        working=working,
        vram=math.ceil(peak) + CUDA_CONTEXT_MIB if gpu else 0,
        memory=rounded_up(weights / MIB + 2048 if gpu else peak + 1024),
    )


def weigh(weights: Weights, width: int, in_float32: frozenset[str] = frozenset()) -> int:
    loaded = sum(
        count * (width if is_floating(dtype) else STORED_BYTES.get(dtype, 1))
        for dtype, count in weights.elements.items()
    )
    return loaded + sum(weights.kept.get(part, 0) for part in in_float32) * (4 - width)


def kinds_of(config: Config) -> set[str]:
    """Return the architectures of a model, of its text part, and of a pipeline's components."""
    named = (config, text_part(config), *config.get("components", ()))
    kinds = {part.get(key) for part in named for key in ("model_type", "_class_name")}
    return {kind for kind in kinds if isinstance(kind, str)}


def _explain(size: Size) -> str:
    """List the parts of the estimate with their sources."""
    working = size.working

    def line(name: str, size: int, source: str) -> str:
        source = "guessed from the weights" if name in working.guessed else source
        return f"{name} {math.ceil(size / MIB):,} MiB ({source})"

    parts = [
        line("weights", size.weights, "headers"),
        line("cache", working.cache, "config"),
        line("logits", working.logits, "config"),
        line("activations", working.activations, "config"),
    ]
    return ", ".join(parts)


def _over(size: Size, over: int) -> Check:
    needs = f"{size.vram:,} MiB of GPU memory" if size.vram else f"{size.memory:,} MiB of memory"
    return Check(
        name="size",
        outcome="warning",
        message=f"with these options the module needs about {needs}, {over:,} MiB more than the "
        "largest that a provider offers; a smaller batchSize or optimizationLevel basic needs less",
    )


def too_long(seconds: int) -> Check:
    """Warn that the image may take longer to pull than a deal may last."""
    return Check(
        name="time",
        outcome="warning",
        message=f"pulling the image and one request may take {seconds:,} s, and the network's "
        f"solver ends a deal after {MAX_DEAL_S:,} s: choose providers that already have the image",
    )


def rounded_up(mib: float) -> int:
    """Round up to 256 MiB, so that a small change of the estimate does not change the module."""
    return math.ceil(mib / 256) * 256


def enough(memory: int, needed: int) -> Check:
    """Check that the requested memory is at least the estimated need, both in MiB."""
    if memory >= needed:
        message = f"{memory:,} MiB requested, {needed:,} MiB estimated"
        return Check(name="memory", outcome="passed", message=message)
    return Check(
        name="memory",
        outcome="warning",
        message=f"memory: {memory:,} MiB is {needed - memory:,} MiB less than the {needed:,} MiB "
        "estimated for the model; the network ends a job that uses more than it requested",
    )


def _too_large(needs: int, largest: int) -> ModelRefused:
    return ModelRefused(
        f"the model needs about {needs:,} MiB of GPU memory for one input, {needs - largest:,} "
        f"more than the {largest:,} that a provider offers; choose a smaller model, or, where you "
        'have a provider with more, accept: ["too-large"]',
        reason="too-large",
    )
