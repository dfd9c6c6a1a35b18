"""An adapter (PEFT's LoRA) and its base model: two repositories, each pinned.

The adapter's repository has the changes to some of the base's matrices. Modules merge them into
the base when they load it.
"""

from dataclasses import replace

from common.contracts import address
from common.contracts.address import Address
from common.contracts.generation import ReadBy
from common.errors import InvalidModel, ModelNotFound
from generator.access import Access
from generator.adapting import MERGED
from generator.hub import within
from generator.reasons import refuse
from generator.snapshot import Snapshot
from generator.weights import Weights
from models.tasks import Task

# Readers of a model, the fewer the further back.
READERS: tuple[ReadBy, ...] = ("account", "operator", "anybody")
# For both repositories: a caller waits 18 s (contracts.generation), and each may take
# `snapshots.READ_TIMEOUT_S`.
READ_TIMEOUT_S = 15.0
# Parts of a model that merging cannot change: their sizes may differ from the base's.
REPLACED_PARTS = ("embed_tokens", "lm_head", "modules_to_save", "wte", "embed_in", "embed_out")


async def read(access: Access, where: Address) -> tuple[Snapshot, float, ReadBy]:
    """Read a model as `Access.read` does; for an adapter, read its base model too."""
    found: tuple[Snapshot, float, ReadBy] = await within(READ_TIMEOUT_S, _read(access, where))
    return found


async def _read(access: Access, where: Address) -> tuple[Snapshot, float, ReadBy]:
    snapshot, age, read_by = await access.read(where)
    if snapshot.adapts is None:
        return snapshot, age, read_by
    named = snapshot.adapts["base"]
    try:
        base, base_age, base_read_by = await access.read(
            address.parse(named, snapshot.adapts["revision"])
        )
    except (InvalidModel, ModelNotFound):
        raise refuse(
            f"the adapter's base {named} is not on the Hub, or is private", "adapter", MERGED
        ) from None
    fewer = min(read_by, base_read_by, key=READERS.index)
    return join(snapshot, base), max(age, base_age), fewer


def join(adapter: Snapshot, base: Snapshot) -> Snapshot:
    """Return the base with its adapter. Raises ModelRefused if they cannot be merged."""
    assert adapter.weights
    if fault := _fault(base):
        raise refuse(f"the adapter's base {base.id} {fault}", "adapter", MERGED)
    assert base.weights
    if any(part in name for name in adapter.weights.names or () for part in REPLACED_PARTS):
        raise refuse("the adapter replaces whole parts of its base", "adapter", MERGED)
    return replace(base, adapter=adapter, weights=_sum(base.weights, adapter.weights))


def _fault(base: Snapshot) -> str:
    if base.adapts:
        return "is an adapter itself"
    if base.weights is None or not {"gguf", "onnx"}.isdisjoint(base.config):
        return "has no weights in safetensors"
    if base.is_pickled:
        return "has pickled weights only"
    return "is quantized" if base.config.get("packing") else ""


def _sum(base: Weights, adapter: Weights) -> Weights:
    """Add the adapter's elements to the base's: both are in memory until they are merged."""
    elements = dict(base.elements)
    for dtype, count in adapter.elements.items():
        elements[dtype] = elements.get(dtype, 0) + count
    return replace(base, elements=elements, bytes=base.bytes + adapter.bytes)


def check(snapshot: Snapshot, task: Task) -> Task:
    """Return the task's row; for an adapter, with the code that merges it into its base."""
    if snapshot.adapter is None:
        return task
    if task.family != "text_generation":
        raise refuse(f"{task.tag} modules merge no adapters", "adapter", MERGED)
    return replace(task, family="adapted_generation")
