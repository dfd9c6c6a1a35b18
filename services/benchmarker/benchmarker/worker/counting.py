"""What a call computes and what it has to read, counted as it runs on one input.

Both are the least that the model asks for: what a kernel reads twice, and what passes between
two operations, is not in them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], Any]

# How configurations say that only some of the weights are read for a token.
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def operations(call: Call, attention: str) -> tuple[float | None, str]:
    """FLOP of a call; None with the reason where they cannot be counted.

    The call is one that has run before, so that what goes wrong is the counting.
    """
    if attention.startswith("flash_attention"):
        return None, "the kernels of flash-attn are not torch's, which counts its own"
    counter = FlopCounterMode(display=False, custom_mapping=_attention_kernels())
    try:
        # Compiled code hides its operations; and a model that once ran under the counter is
        # never again run as compiled, unless it was told to run eagerly meanwhile.
        with torch.compiler.set_stance("force_eager"), counter:
            call()
    except Exception as error:  # noqa: BLE001  (a kernel that cannot be counted ends no run)
        return None, f"an operation could not be counted: {type(error).__name__}"
    return float(counter.get_total_flops()) or None, "torch counts none of the model's operations"


def weights_read(call: Call, config: dict[str, Any]) -> tuple[float | None, str]:
    """Bytes of weights that a call reads, each module's every time that it runs.

    Of an embedding some rows are read, which is next to nothing. None with the reason where the
    input chooses which weights are read.
    """
    text = config.get("text_config") or config
    if any((text.get(name) or 0) > 1 for name in EXPERTS):
        return None, "which of a model's experts are read depends on the input"
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
    """How often a call enters code that torch.compile has made; 0: it ran as it was written."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.name.startswith("Torch-Compiled Region") for event in profile.events())


def _attention_kernels() -> dict[Any, Callable[..., int]]:
    """Fused attention: torch counts none of it on a CPU, and in 2.11 none with shared keys."""
    names = ("flash_attention_for_cpu", "flash_attention", "efficient_attention", "cudnn_attention")
    kernels = (getattr(torch.ops.aten, f"_scaled_dot_product_{name}", None) for name in names)
    return {kernel: _attention for kernel in kernels if kernel is not None}


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Every query with every key, then with every value, whatever a mask leaves out."""
    batch, heads, queries, width = query
    return int(2 * batch * heads * queries * key[-2] * (width + value[-1]))
