"""Checks and resources of modules of GGUF files, which llama.cpp runs."""

import math
from collections.abc import Collection
from typing import Any

from common.contracts.generation import Accepted, Check, GenerateOptions
from common.errors import ModelRefused
from generator import refusals, resources
from generator.reasons import refuse
from generator.recognition import named_tag
from generator.resources import ROUNDING, STACK_BYTES, Resources
from generator.snapshot import Snapshot
from models import gguf as sizes
from models.dtypes import GIB, MIB, to_mib
from models.sizes import Footprint
from models.tasks import LIBRARIES, Task
from models.tasks.llama import LIBRARY, RANKS, SEES, VECTORS, WRITES

# An interpreter with llama.cpp's library, in MiB; 25 were measured.
BASE_MIB = 256
# The architecture of projectors of images and sounds (mmproj).
PROJECTOR = "clip"
# More layers than any model has: one of 405 billion parameters has 126. A context below the other
# has no room for a question and its answer.
MAX_LAYERS, MIN_CONTEXT = 1024, 32
# Cores that llama.cpp computes with; it is the memory's speed that bounds it beyond eight.
CORES, CORES_OF_LARGE, LARGE_BYTES = 4, 8, GIB


NO_RANKER = (
    "the GGUF file is a ranker by its header, and not of those whose scores llama.cpp gives as the "
    "model's own library does: XLM-RoBERTa's whose header has add_bos_token, add_eos_token and "
    "add_sep_token, and Qwen3's with a template for ranking"
)
NO_RANKER_HELP = (
    "a file that a llama.cpp of 2025 or later converted, or the model that it was converted from, "
    "with safetensors weights"
)
PROMPTLESS = Check(
    name="prompts",
    outcome="warning",
    message="a GGUF file has no prompts: where the model's card names some (such as `query: `), "
    "put them before the texts",
)


def check(read: Snapshot, accept: Collection[Accepted] = ()) -> tuple[Task, list[Check]]:
    """Return the row that serves the model, and its checks. Raises ModelRefused if none does."""
    named, facts = named_tag(read), read.config["gguf"]
    architecture = facts["architecture"]
    # A vocabulary has no tensors; older projectors have no type.
    if facts["type"] != "model" or not facts["loaded"] or architecture == PROJECTOR:
        raise refuse(
            "the GGUF file is a part of a model, not one itself",
            "incomplete",
            "the model's own file: leave options.file out, or name that file in it",
        )
    if architecture not in sizes.known():
        raise refuse(
            "the pinned llama.cpp does not know the architecture of the GGUF file",
            "architecture",
            _original(read, "a model of an architecture that it knows"),
        )
    task = _task(read, named)
    if not (facts.get("vocabulary") and facts.get("block_count") and facts.get("embedding_length")):
        raise ModelRefused("the GGUF file's header lacks the model's sizes", reason="config")
    if sizes.size(facts, "block_count") > MAX_LAYERS:
        raise ModelRefused(
            f"the GGUF file's header names more than {MAX_LAYERS:,} layers", reason="config"
        )
    if "context_length" in facts and sizes.size(facts, "context_length") < MIN_CONTEXT:
        raise ModelRefused(
            f"the GGUF file's header names a context of less than {MIN_CONTEXT} tokens",
            reason="config",
        )
    return task, [
        *([_blind(read)] if named in SEES else []),
        *([PROMPTLESS] if task.tag in VECTORS else []),
        *refusals.check_source(read, accept),
    ]


def _task(read: Snapshot, named: str | None) -> Task:
    """Return the row that serves the file; the header, not the card, makes it an embedder."""
    facts = read.config["gguf"]
    tag = WRITES if named is None or named in SEES else named
    is_encoder = facts["architecture"] in sizes.ENCODERS
    if tag == WRITES and (sizes.embeds(facts) or is_encoder):
        tag = VECTORS[0]
    task = LIBRARIES[LIBRARY].get(tag)
    if sizes.size(facts, "pooling_type") == sizes.RANKS:
        if sizes.ranks(facts):
            return LIBRARIES[LIBRARY][RANKS]
        raise refuse(NO_RANKER, "gguf-only", _original(read, NO_RANKER_HELP))
    serves = sizes.embeds(facts) if tag in VECTORS else sizes.writes(facts["architecture"])
    if task is not None and serves and tag != RANKS:
        return task
    fault = f"of GGUF files modules serve {', '.join(sorted(LIBRARIES[LIBRARY]))}"
    fault += ", and this one is for something else"
    help = "the model that it was converted from, with safetensors weights"
    if tag == RANKS:
        fault = "the GGUF file's header does not say that it is a ranker (pooling_type 4)"
    elif tag in VECTORS and (is_encoder or sizes.writes(facts["architecture"])):
        fault = "the GGUF file's header does not say how the vectors of a text's tokens become one "
        fault += "(pooling_type), which llama.cpp's converter writes for sentence models"
        help += ", or a GGUF file whose header names it"
    raise refuse(fault, "gguf-only", _original(read, help))


def _blind(read: Snapshot) -> Check:
    """Warn that the module of a model for images and text takes no images."""
    return Check(
        name="images",
        outcome="warning",
        message="the module accepts only text: image projectors (mmproj) are not loaded; for "
        f"images, use {_original(read, 'the model that it was converted from')}",
    )


def _original(read: Snapshot, otherwise: str) -> str:
    base = read.description.base
    return refusals.made_from(base) if base else otherwise


def estimate(
    read: Snapshot,
    task: Task,
    options: GenerateOptions,
    *,
    max_host_memory_mib: int,
    accept: Collection[Accepted] = (),
) -> tuple[Resources, list[Check]]:
    """Estimate the module's resources; return them with warnings about them.

    Raises ModelRefused if no provider has the memory, unless `accept` allows it.
    """
    assert read.weights
    facts = read.config["gguf"]
    tokens = sizes.tokens_of(facts)
    embeds = task.tag in (*VECTORS, RANKS)
    working = (sizes.embedding_footprint if embeds else sizes.footprint)(facts, tokens)
    needed = needed_mib(facts, working)
    over = needed - max_host_memory_mib
    if over > 0 and "too-large" not in accept:
        raise _too_large(needed, over)
    memory = needed if options.memory is None else to_mib(options.memory)
    disk = STACK_BYTES["cpu"] + STACK_BYTES["compiler"] + read.weights.bytes
    timeout = resources.DEFAULT_RUN_S + math.ceil(disk / resources.PULL_BYTES_PER_S)
    checks = [resources.enough(memory, needed), *_unused(read, options)]
    if over > 0:
        checks.append(_over(needed, over))
    if timeout > resources.MAX_DEAL_S:
        checks.append(resources.too_long(timeout))
    return Resources(
        gpu=False,
        vram=0,
        vram_source="headers" if options.gpu is None else "requested",
        memory=memory,
        memory_source="headers" if options.memory is None else "requested",
        disk=resources.rounded_up(disk / MIB),
        cpu=CORES_OF_LARGE if read.weights.bytes > LARGE_BYTES else CORES,
        batch_size=1,
        max_tokens=tokens,
        dtype="float32",
        attention="sdpa",
        compile=False,
        timeout=resources.DEFAULT_RUN_S,
        execution_timeout=timeout,
        batch_tokens=sizes.batch_of(facts, tokens) if embeds else None,
        parts=_explain(facts, working),
    ), checks


def needed_mib(facts: dict[str, Any], working: Footprint) -> int:
    """Return the memory that a module requests, in MiB."""
    # While it loads, llama.cpp holds one tensor twice; the rest is allocated after that.
    peak = facts["loaded"] + max(working.total, facts["largest"])
    return resources.rounded_up(peak * ROUNDING / MIB + BASE_MIB)


def _explain(facts: dict[str, Any], working: Footprint) -> str:
    parts = (
        ("weights", facts["loaded"]),
        ("cache", working.cache),
        ("logits", working.logits),
        ("activations", working.activations),
    )
    shown = [f"{name} {math.ceil(bytes / MIB):,} MiB (header)" for name, bytes in parts]
    return ", ".join(shown)


def _unused(read: Snapshot, options: GenerateOptions) -> list[Check]:
    """Warn of options that modules of GGUF files do not follow."""
    found = []
    if options.gpu:
        instead = _original(read, "the model that it was converted from, with safetensors weights")
        unasked = "modules of GGUF files run on CPUs and request no GPU"
        found.append(("gpu", f"{unasked}; for a GPU, use {instead}"))
    if options.optimization_level in ("none", "full"):
        found.append(("optimizationLevel", "llama.cpp has only one level"))
    return [Check(name=name, outcome="warning", message=message) for name, message in found]


def _over(needed: int, over: int) -> Check:
    """Warn that no provider has the memory for a file that the caller accepted as too large."""
    message = f"the module needs about {needed:,} MiB of memory, {over:,} more than the largest "
    message += "that a provider offers; a smaller file (options.file) needs less"
    return Check(name="size", outcome="warning", message=message)


def _too_large(needed: int, over: int) -> ModelRefused:
    return ModelRefused(
        f"the GGUF file needs about {needed:,} MiB of memory, {over:,} more than the largest that "
        "a provider offers; choose a smaller one with options.file, or, where "
        'you have a provider with more, accept: ["too-large"]',
        reason="too-large",
    )
