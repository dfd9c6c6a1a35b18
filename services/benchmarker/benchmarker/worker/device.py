"""What this machine is, what it can do at most, and what others do on it meanwhile."""

import contextlib
import ctypes
import importlib.util
import math
import os
import platform
import resource
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from transformers.utils import is_flash_attn_2_available

MIB = 2**20
# What limits this container, in the second version of control groups.
GROUP = Path("/sys/fs/cgroup")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Of the arrays that the ceilings are measured with: larger than any cache.
COPIED = {"cpu": 128 * MIB, "cuda": 1024 * MIB}
MATRIX = {"cpu": 1024, "cuda": 8192}
REPEATS = 6
# Seconds in which a GPU raises its clocks at work: idle, an H200 has them at 345 of 1,980 MHz.
RAISED = 0.3


class Cuda:
    """Times by CUDA events, which the device itself stamps."""

    def synchronize(self) -> None:
        torch.cuda.synchronize()

    def mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def between(self, start: torch.cuda.Event, end: torch.cuda.Event) -> int:
        milliseconds: float = start.elapsed_time(end)
        return round(milliseconds * 1e6)


def free_memory(kind: str) -> float:
    """MiB that nobody has now: of the device, or on a CPU of this container."""
    if kind == "cuda":
        return torch.cuda.mem_get_info()[0] / MIB
    free = psutil.virtual_memory().available
    limit = _container_limit()
    if limit is not None:
        free = min(free, limit - _container_use())
    return free / MIB


def total_memory(kind: str) -> float:
    """MiB that there are: of the device, or on a CPU of this container."""
    if kind == "cuda":
        return torch.cuda.mem_get_info()[1] / MIB
    total = psutil.virtual_memory().total
    return min(total, _container_limit() or total) / MIB


def _container_limit() -> int | None:
    limit = GROUP / "memory.max"
    text = limit.read_text().strip() if limit.exists() else "max"
    return int(text) if text.isdecimal() else None


def _container_use() -> int:
    """Without the files that are only kept in case somebody reads them again."""
    stat = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
    return int((GROUP / "memory.current").read_text()) - int(stat.get("inactive_file", 0))


def cores() -> int:
    """That this process may use; in a container with a share of the time, what that is worth."""
    mine = len(os.sched_getaffinity(0))
    return min(mine, math.ceil(_quota() or mine))


def threads() -> int:
    """That torch is to compute with: more than a container's share is worth are held back."""
    share = _quota()
    usual = torch.get_num_threads()
    return usual if share is None else min(usual, max(int(share), 1))


def held_back() -> int:
    """Microseconds for which this container has been kept from the cores, its share used up."""
    stat = GROUP / "cpu.stat"
    lines = stat.read_text().splitlines() if stat.exists() else []
    return int(dict(line.split() for line in lines).get("throttled_usec", 0))


def _quota() -> float | None:
    """Cores that this container's share of the time is worth; None without a limit."""
    limit = GROUP / "cpu.max"
    share, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
    return int(share) / int(period) if share.isdecimal() else None


def describe(share: float, most: float | None, device: str | None = None) -> dict[str, Any]:
    """`measuring.Announcement`, but for the worker's name.

    Its memory is what a model may take where nobody else takes any, so that what is refused for
    its size would never run here.

    Args:
        share: of the memory, that a model may take.
        most: MiB that it may take, where that is less.
        device: `cpu` or `cuda`; a GPU where there is one when left out.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    memory = total_memory(kind) * share
    attentions = ["eager", "sdpa"]
    if kind == "cuda" and is_flash_attn_2_available():
        attentions.append("flash_attention_2")
    return {
        "name": torch.cuda.get_device_name(0) if kind == "cuda" else cpu_name(),
        "device_class": "gpu" if kind == "cuda" else "cpu",
        "memory": min(memory, most or memory),
        "dtypes": [name for name, dtype in DTYPES.items() if _computes(kind, dtype)],
        "attentions": attentions,
        "compiles": compiles(kind),
    }


def machine(kind: str) -> dict[str, Any]:
    """`figures.Machine`, but for the libraries' versions."""
    gpu = kind == "cuda"
    return {
        "device": kind,
        "name": torch.cuda.get_device_name(0) if gpu else cpu_name(),
        "cores": cores(),
        "threads": torch.get_num_threads(),
        "memory": total_memory(kind),
    }


def cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def compiles(kind: str) -> bool:
    """Whether torch.compile has what it writes its kernels with: triton, or a C++ compiler."""
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if kind == "cuda":
        return bool(importlib.util.find_spec("triton") and (compiler or shutil.which("cc")))
    return bool(compiler)


def _computes(kind: str, dtype: torch.dtype) -> bool:
    """Whether a layer's operations exist in a dtype here; asked of the device itself."""
    try:
        x = torch.rand(8, 8, device=kind, dtype=dtype)
        torch.nn.functional.layer_norm(torch.softmax(x @ x, -1), (8,)).sum().item()
    except RuntimeError:
        return False
    return True


def ceilings(kind: str, dtype: str) -> dict[str, float]:
    """What this device does at most now: `bandwidth` in GB/s, `compute` in GFLOP/s.

    Random numbers: a product of zeros takes less power and so runs faster. The right matrix lies
    as a layer's weights do: where a CPU has no instructions for float16, torch takes nine times as
    long for one that lies otherwise.
    """
    source = torch.rand(COPIED[kind] // 4, device=kind)
    target = torch.empty_like(source)
    copying = _seconds(kind, lambda: target.copy_(source))
    size = MATRIX[kind]
    left, right = (torch.randn(size, size, device=kind).to(DTYPES[dtype]) for _ in range(2))
    product = torch.empty_like(left)
    multiplying = _seconds(kind, lambda: torch.mm(left, right.t(), out=product))
    return {
        "bandwidth": 2 * COPIED[kind] / copying / 1e9,
        "compute": 2 * size**3 / multiplying / 1e9,
    }


def _seconds(kind: str, call: Callable[[], Any]) -> float:
    def once() -> float:
        start = time.perf_counter()
        call()
        if kind == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    began = time.perf_counter()
    once()
    while kind == "cuda" and time.perf_counter() - began < RAISED:
        once()
    return statistics.median(once() for _ in range(REPEATS))


class CpuMemory:
    """Peak resident set of this process, from a clean state."""

    def limit(self, mib: float) -> None:
        """From here on an allocation beyond the limit is an error, where it would be a kill."""
        now = psutil.Process().memory_info().data
        resource.setrlimit(resource.RLIMIT_DATA, (now + int(mib * MIB), resource.RLIM_INFINITY))

    def reset(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak

    def peak(self) -> dict[str, float | None]:
        peak = peak_rss()
        if peak is None:
            raise OSError("the kernel does not tell the peak of the resident set")
        return {"peakRss": peak}


def peak_rss() -> float | None:
    """Largest resident set of this process since its peak was forgotten, in MiB.

    None where the kernel does not tell, as some that only containers have.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None


class CudaMemory:
    """What the device's allocator held at most, from a clean state."""

    def __init__(self) -> None:
        self.host = CpuMemory()

    def limit(self, mib: float) -> None:
        total = torch.cuda.mem_get_info()[1] / MIB
        torch.cuda.set_per_process_memory_fraction(min(mib / total, 1.0))

    def reset(self) -> None:
        with contextlib.suppress(OSError):  # what the host holds is not what a GPU's run is about
            self.host.reset()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self._retries = torch.cuda.memory_stats().get("num_alloc_retries", 0)

    def peak(self) -> dict[str, float | None]:
        retries = torch.cuda.memory_stats().get("num_alloc_retries", 0)
        return {
            "allocated": torch.cuda.max_memory_allocated() / MIB,
            "reserved": torch.cuda.max_memory_reserved() / MIB,
            "retries": retries - self._retries,
            "peakRss": peak_rss(),
        }
