"""Counts of the operations and bytes of a call on one input.

Both are lower bounds: data that a kernel reads twice, or that passes between two operations, is
not counted.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], Any]

# Fields by which a configuration declares a mixture of experts.
EXPERT_FIELDS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def operations(call: Call, attention: str) -> tuple[float | None, str]:
    """Return the FLOP of a call, or None and the reason why they cannot be counted.

    The call has run before, so that an error here is the counter's.
    """
    if attention.startswith("flash_attention"):
        return None, "the kernels of flash-attn are not torch's, which counts its own"
    counter = FlopCounterMode(display=False, custom_mapping=_attention_kernels())
    try:
        # Compiled code hides its operations; and a model that ran under the counter is never run
        # as compiled again, unless it was forced to run eagerly meanwhile.
        with torch.compiler.set_stance("force_eager"), counter:
            call()
    except Exception as error:  # noqa: BLE001  (a run survives an uncountable kernel)
        return None, f"an operation could not be counted: {type(error).__name__}"
    return float(counter.get_total_flops()) or None, "torch counts none of the model's operations"


def weights_read(call: Call, config: dict[str, Any]) -> tuple[float | None, str]:
    """Return the bytes of weights that a call reads, or None and the reason.

    A module's weights count each time that it runs; an embedding's do not, since few of its rows
    are read. They are unknown where the input chooses which weights are read.
    """
    text = config.get("text_config") or config
    if any((text.get(name) or 0) > 1 for name in EXPERT_FIELDS):
        return None, "which of the model's experts are read depends on the input"
    read = 0

    def count(module: torch.nn.Module, _: Any) -> None:
        nonlocal read
        if not isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            read += sum(weight.nbytes for weight in module.parameters(recurse=False))

    counting = register_module_forward_pre_hook(count)
    try:
        with torch.compiler.set_stance("force_eager"):
            call()
    finally:
        counting.remove()
    return float(read), ""


def compiled_regions(call: Call) -> int:
    """Count how often a call enters code compiled by torch.compile."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.name.startswith("Torch-Compiled Region") for event in profile.events())


def _attention_kernels() -> dict[Any, Callable[..., int]]:
    """Return FLOP counters for fused attention, which torch lacks for CPUs and shared keys."""
    names = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    kernels = (getattr(torch.ops.aten, f"_scaled_dot_product_{name}", None) for name in names)
    return {kernel: _attention for kernel in kernels if kernel is not None}


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Count the operations of each query with all keys and values, regardless of the mask."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[-2] * (width + value[-1]))
