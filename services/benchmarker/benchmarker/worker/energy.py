"""A GPU's energy by its board's counter, and its throttling.

The counter is updated about every 100 ms, so a window lasts at least 5 s. It counts the whole
board, so a shared board yields no figure.
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

WINDOW_S = 5.0
# Short enough for a block of a few calls.
POLL_INTERVAL_S = 0.02
# Share of a block's time below which throttling is the kernel's accounting error.
MIN_THROTTLED_SHARE = 0.02
LOWERED = {
    "thermal": pynvml.nvmlClocksEventReasonSwThermalSlowdown
    | pynvml.nvmlClocksEventReasonHwThermalSlowdown,
    "power": pynvml.nvmlClocksEventReasonSwPowerCap
    | pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown,
    "hardware": pynvml.nvmlClocksEventReasonHwSlowdown,
}
PARTITIONED = "not measured: the counter covers the whole board, and this is a MIG partition of it"
CPU_ONLY = "not measured: a CPU's energy counters are the host's, and a process may not read them"


def measure(call: Callable[[], Any], batch_size: int, kind: str) -> dict[str, Any]:
    """Measure the energy of calls repeated for `WINDOW_S`; return the fields of `EnergyUse`."""
    if kind != "cuda":
        return {"missing": CPU_ONLY}
    # Recognised by name: torch reports the partition's id, which NVML does not know.
    if "MIG" in torch.cuda.get_device_name(0).split():
        return {"missing": PARTITIONED}
    try:
        handle = _handle()
        if pynvml.nvmlDeviceGetMigMode(handle)[0]:
            return {"missing": PARTITIONED}
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
    while time.perf_counter() - start < WINDOW_S:
        call()
        torch.cuda.synchronize()
        calls += 1
    joules = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1000
    seconds = time.perf_counter() - start
    if _others(handle):
        return {
            "missing": "not measured: other processes use the board, which the counter covers whole"
        }
    if joules <= 0:
        return {"missing": "not measured: the counter did not advance"}
    return {
        "perInference": joules / calls / batch_size,
        "meanPower": joules / seconds,
        "window": seconds,
    }


@contextmanager
def throttling(kind: str) -> Iterator[set[str]]:
    """Yield a set that collects the reasons for lowered clocks during the block.

    An idle device reports none, so it has to be polled meanwhile. On a CPU the reason is `quota`
    if the container was throttled.
    """
    seen_reasons: set[str] = set()
    start, before = time.perf_counter(), device.throttled_us()
    handle = None
    if kind == "cuda":
        with contextlib.suppress(pynvml.NVMLError):
            # Before the work begins: starting NVML takes tens of ms and the driver's locks.
            handle = _handle()
    if handle is None:
        yield seen_reasons
        throttled_s = (device.throttled_us() - before) / 1e6
        if kind == "cpu" and throttled_s > MIN_THROTTLED_SHARE * (time.perf_counter() - start):
            seen_reasons.add("quota")
        return
    over = threading.Event()

    def sample() -> None:
        with contextlib.suppress(pynvml.NVMLError):
            while not over.wait(POLL_INTERVAL_S):
                reasons = pynvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
                seen_reasons.update(name for name, bits in LOWERED.items() if reasons & bits)

    looking = threading.Thread(target=sample)
    looking.start()
    try:
        yield seen_reasons
    finally:
        over.set()
        looking.join()


def sharing(kind: str) -> int | None:
    """Return how many other processes use the GPU; None if unknown, or on a CPU.

    They are only counted: processes of other pid namespaces have other numbers here.
    """
    if kind != "cuda":
        return None
    try:
        return _others(_handle())
    except pynvml.NVMLError:
        return None


def _others(handle: Any) -> int:
    # Versioned names: only for these does a missing function of an old driver raise NVMLError.
    count = len(pynvml.nvmlDeviceGetComputeRunningProcesses_v3(handle))
    with contextlib.suppress(pynvml.NVMLError):  # a driver without MPS
        count += len(pynvml.nvmlDeviceGetMPSComputeRunningProcesses_v3(handle))
    return max(count - 1, 0)


def _handle() -> Any:
    """Return NVML's handle of torch's device 0; NVML may number devices differently."""
    pynvml.nvmlInit()
    return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(0).uuid}")
