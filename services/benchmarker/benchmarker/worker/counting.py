"""What a call computes, counted as it runs, and whether compiled code is what runs."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], Any]


def operations(call: Call) -> float | None:
    """FLOP of a call."""
    counter = FlopCounterMode(display=False)
    # Compiled code hides its operations. And a model that has once run under the counter is
    # never again run as compiled, unless it was told to run eagerly meanwhile.
    with torch.compiler.set_stance("force_eager"), counter:
        call()
    return float(counter.get_total_flops()) or None


def compiled_regions(call: Call) -> int:
    """How often a call enters code that torch.compile has made; 0: it runs as it is written."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return sum(event.name.startswith("Torch-Compiled Region") for event in profile.events())
