"""Energy of a GPU, by the counter that its board keeps.

The counter moves about every 100 ms, so a window is 5 s at least; it counts
the whole board, so there is no figure where others share it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml
import torch

from benchmarker.worker import device

WINDOW = 5.0
# Often enough for a block of a few calls, in seconds.
LOOK_EVERY = 0.02
# Of a block's time: less passes between two accounts of the kernel's.
HELD_BACK = 0.02
LOWERED = {
    "thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown
    | pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power": pynvml.nvmlClocksEventReasonSwPowerCap
    | pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "hardware": pynvml.nvmlClocksEventReasonHwSlowdown,
}
OF_A_PART = "not measured: the counter is the whole board's, and this is a part"
ON_A_CPU = "not measured: a CPU's energy counters are the host's, and a process may not read them"


def measure(call: Callable[[], Any], batch_size: int, kind: str) -> dict[str, Any]:
    """`figures.EnergyUse` of calls repeated for 5 s."""
    if kind != "cuda":
        return {"missing": ON_A_CPU}
    # By its name: torch tells the part's own id, under which NVML knows no board.
    if "MIG" in torch.cuda.get_device_name(0).split():
        return {"missing": OF_A_PART}
    try:
        handle = _handle()
        if pynvml.nvmlDeviceGetMigMode(handle)[0]:
            return {"missing": OF_A_PART}
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
    if _others(handle):
        return {"missing": "not measured: the counter is the whole board's, and others use it too"}
    if joules <= 0:
        return {"missing": "not measured: the counter went back"}
    return {
        "perInference": joules / calls / batch_size,
        "meanPower": joules / seconds,
        "window": seconds,
    }


@contextmanager
def throttling(kind: str) -> Iterator[set[str]]:
    """Why the clocks were lower than asked for while a device worked: a set that fills meanwhile.

    An idle device has no reason to lower them, so that it is no use to look afterwards. On a CPU
    it is `quota` where the container had used up its share of the time.
    """
    found: set[str] = set()
    start, before = time.perf_counter(), device.held_back()
    handle = None
    if kind == "cuda":
        with contextlib.suppress(pynvml.NVMLError):
            # Before the work begins: to start, NVML takes tens of ms and the driver's locks.
            handle = _handle()
    if handle is None:
        yield found
        held_back = (device.held_back() - before) / 1e6
        if kind == "cpu" and held_back > HELD_BACK * (time.perf_counter() - start):
            found.add("quota")
        return
    over = threading.Event()

    def look() -> None:
        with contextlib.suppress(pynvml.NVMLError):
            while not over.wait(LOOK_EVERY):
                reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
                found.update(name for name, bits in LOWERED.items() if reasons & bits)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        over.set()
        looking.join()


def sharing(kind: str) -> int | None:
    """How many processes have the device beside this one; None where that is not known.

    Those of its containers' namespaces have other numbers here, so that they are only counted.
    """
    if kind != "cuda":
        return None
    try:
        return _others(_handle())
    except pynvml.NVMLError:
        return None


def _others(handle: Any) -> int:
    # By version: without one, what an old driver does not have is no NVMLError.
    found = len(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle))
    with contextlib.suppress(pynvml.NVMLError):  # a driver without that service
        found += len(pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle))
    return max(found - 1, 0)


def _handle() -> Any:
    """Of the device that torch calls 0, whatever the order is in which NVML counts."""
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
