"""Energy of a GPU, by the counter that its board keeps.

The counter moves about every 100 ms, so a window is 5 s at least; it counts
the whole board, so there is no figure where others share it.
"""

import time
from collections.abc import Callable
from typing import Any

import pynvml
import torch

WINDOW = 5.0
ON_A_CPU = "not measured: a CPU's energy counters are the host's, and a process may not read them"


def measure(call: Callable[[], Any], batch_size: int, kind: str) -> dict[str, Any]:
    """`figures.EnergyUse` of calls repeated for 5 s."""
    if kind != "cuda":
        return {"missing": ON_A_CPU}
    try:
        handle = _handle()
        if pynvml.nvmlDeviceGetMigMode(handle)[0]:
            return {"missing": "not measured: the counter is the whole board's, and this is a part"}
    except pynvml.NVMLError_NotSupported:
        pass  # a board without partitions
    except pynvml.NVMLError as error:
        return {"missing": f"not measured: {error}"}
    try:
        return _window(call, batch_size, handle)
    except pynvml.NVMLError as error:
        return {"missing": f"not measured: {error}"}


def _window(call: Callable[[], Any], batch_size: int, handle: Any) -> dict[str, Any]:
    calls = 0
    torch.cuda.synchronize()
    before = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)  # mJ since the driver was loaded
    start = time.perf_counter()
    while time.perf_counter() - start < WINDOW:
        call()
        torch.cuda.synchronize()
        calls += 1
    joules = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1000
    seconds = time.perf_counter() - start
    if joules <= 0:
        return {"missing": "not measured: the counter went back"}
    return {
        "perInference": joules / calls / batch_size,
        "meanPower": joules / seconds,
        "window": seconds,
    }


def throttled(kind: str) -> list[str]:
    """Why the clocks are lower than asked for, at this moment."""
    if kind != "cuda":
        return []
    try:
        reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(_handle())
    except pynvml.NVMLError:
        return []
    named = {
        "thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown
        | pynvml.nvmlClocksThrottleReasonHwThermalSlowdown,
        "power": pynvml.nvmlClocksEventReasonSwPowerCap
        | pynvml.nvmlClocksThrottleReasonHwPowerBrakeSlowdown,
    }
    return [name for name, bits in named.items() if reasons & bits]


def _handle() -> Any:
    """Of the device that torch calls 0, whatever the order is in which NVML counts."""
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
