"""Snapshots of GGUF models: the file that a module runs, and what its header says."""

from typing import Any

from common.errors import ModelRefused
from generator import gguf, gguf_files, snapshot
from generator.description import Description, Sibling, remembered
from generator.hub import Hub
from generator.layout import Layout
from generator.reasons import refuse
from generator.selection import File, file_of, kinds_of
from generator.snapshot import MAX_INLINE_BYTES, Snapshot
from generator.weights import Weights
from models import gguf as sizes
from models.dtypes import MIB

# Numbers that are kept of a header, without the architecture before them.
KEPT = frozenset(
    ("context_length", "block_count", "embedding_length", "feed_forward_length", "expert_count")
) | {
    *("expert_used_count", "expert_feed_forward_length", "expert_shared_feed_forward_length"),
    *("attention.head_count", "attention.head_count_kv", "attention.key_length"),
    *("attention.value_length", "attention.key_length_swa", "attention.value_length_swa"),
    *("attention.sliding_window", "attention.sliding_window_pattern", "ssm.inner_size"),
    *("pooling_type", "attention.causal"),
    *("ssm.state_size", "ssm.group_count", "ssm.conv_kernel", "wkv.head_size", "kda.head_dim"),
}
# llama.cpp keeps these numbers in 32 bits.
MAX_COUNT = 2**31


def is_gguf(read: Snapshot) -> bool:
    return "gguf" in read.config


async def read_model(hub: Hub, description: Description, named: str | None) -> Snapshot:
    """Read the model at its commit from its GGUF file, if `named` or if it has nothing else.

    Raises InvalidRequest if the repository has no such file; else as `snapshot.read` does.
    """
    if named is None:
        found = await snapshot.read(hub, description)
        if found.weights is not None or not _has_gguf(found):
            return found
    return await _read(hub, description, gguf_files.choose(description, named))


def _has_gguf(found: Snapshot) -> bool:
    """Whether the repository has a GGUF model; one with an adapter is refused as an adapter."""
    return "gguf" in found.kinds and found.kinds.isdisjoint(("adapter", "adapted"))


async def _read(hub: Hub, description: Description, parts: tuple[Sibling, ...]) -> Snapshot:
    files = tuple(file_of(part) for part in parts)
    headers = [await _header(hub, description, file) for file in files]
    first = headers[0].fields
    config: dict[str, Any] = {"gguf": facts_of(headers) | {"file": files[0].path}}
    if count := sizes.size(config["gguf"], "context_length"):
        config["max_position_embeddings"] = count  # as the model's facts name it
    elements: dict[str, int] = {}
    for header in headers:
        for kind, number in header.elements.items():
            elements[kind] = elements.get(kind, 0) + number
    if (first.get("split.count") or 1) != len(files):  # 0: never split
        raise refuse(
            "the GGUF file's header names another number of parts than its name",
            "incomplete",
            "a revision that has all of them, with the names that llama.cpp gave them",
        )
    return Snapshot(
        remembered(description),
        files,
        kinds_of(description),
        config,
        Weights(dict(sorted(elements.items())), sum(file.size for file in files), None),
        Layout(),
    )


async def _header(hub: Hub, description: Description, file: File) -> gguf.Header:
    """Read the beginning of a file, more of it until the header ends there."""
    where = description.id, description.sha, file.path, 0
    for length in (min(length, file.size) for length in gguf.READS):
        if length <= MAX_INLINE_BYTES:
            found = gguf.read(await hub.part(*where, length), file.size)
        else:
            async with hub.large.slot():
                content = await hub.part(*where, length)
                found = await hub.reader.read("gguf", content, file_size=file.size)
        if found is not None:
            return found
        if length == file.size:
            raise ModelRefused("the GGUF file ends within its header", reason="weights")
    raise ModelRefused(
        f"the header of the GGUF file is larger than {gguf.READS[-1] // MIB} MiB", reason="weights"
    )


def facts_of(headers: list[gguf.Header]) -> dict[str, Any]:
    """Reduce the headers of a file's parts, mainly the first, to the facts that modules need.

    `loaded` and `largest` are the bytes of all tensors and of the largest. Raises ModelRefused for
    a number that no model has.
    """
    fields: dict[str, Any] = {**headers[0].fields}
    lengths = headers[0].lengths
    architecture = str(fields.get("general.architecture", ""))
    prefix = f"{architecture}."
    named = {
        key.removeprefix(prefix): value for key, value in fields.items() if key.startswith(prefix)
    }
    counts = {key: named[key] for key in KEPT & named.keys() if _is_count(named[key])}
    if any(sizes.size(counts, key) > MAX_COUNT for key in counts):
        raise ModelRefused("the GGUF file's header has sizes beyond any model's", reason="config")
    return {
        "architecture": architecture,
        "loaded": sum(header.bytes for header in headers),
        "largest": max(header.largest for header in headers),
        "type": str(fields.get("general.type", "model")),
        "vocabulary": lengths.get("tokenizer.ggml.tokens", 0),
        "chat": lengths.get("tokenizer.chat_template", 0) > 0,
        "scores": any(header.scores for header in headers),
        "pairs": _pairs(fields, lengths),
        **counts,
    }


def _pairs(fields: dict[str, Any], lengths: dict[str, int]) -> str:
    """Return how llama.cpp writes a query and a text as one: by a template, by marks, or not."""
    if lengths.get("tokenizer.chat_template.rerank"):
        return "template"
    # Without these fields, which older converters did not write, llama.cpp leaves marks out.
    marked = all(fields.get(f"tokenizer.ggml.add_{mark}_token") for mark in ("bos", "eos", "sep"))
    # llama.cpp gives both texts the first of a model's segments.
    alone = fields.get("tokenizer.ggml.token_type_count", 1) == 1
    return "marks" if marked and alone and fields.get("tokenizer.ggml.model") == "t5" else ""


def _is_count(value: Any) -> bool:
    """Whether a value is an integer that is not negative, or a list of such integers."""
    return (
        all(isinstance(one, int) and one >= 0 for one in value)
        if isinstance(value, list)
        else isinstance(value, int) and value >= 0
    )
