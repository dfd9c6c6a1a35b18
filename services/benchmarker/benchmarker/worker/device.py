"""This machine's memory, cores, dtypes and ceilings, within its container's limits.

`python -m benchmarker.worker.device` is a child process that describes it.
"""

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
from typing import Any, NamedTuple

import psutil
import torch

from benchmarker.worker.cgroup import UNLIMITED_BYTES
from benchmarker.worker.process import answer_questions
from models.dtypes import MIB

# Limits of this container: in control groups version 2, and its memory's in version 1, too.
CGROUP = Path("/sys/fs/cgroup")


class MemoryFiles(NamedTuple):
    """Names of a control group's files, and of the reclaimable page cache in `memory.stat`."""

    limit: str
    use: str
    reclaimable: str


VERSION_2 = MemoryFiles("memory.max", "memory.current", "inactive_file")
VERSION_1 = MemoryFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# Sizes of the arrays that measure the ceilings, larger than any cache.
COPY_BYTES = {"cpu": 128 * MIB, "cuda": 1024 * MIB}
MATRIX_ROWS = {"cpu": 1024, "cuda": 8192}
REPEATS = 6
# Parameter of mallopt(3), and its value for returning freed memory: the C library retains freed
# blocks below this size, and the tensors that matter are larger. Timing does without: calls that
# take fresh memory each time are a tenth to a sixth slower.
M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES = -3, 64 * 1024
# Time in which a busy GPU raises its clocks: an idle H200 runs at 345 of 1,980 MHz.
RAMP_UP_S = 0.3


class CudaClock:
    """Clock of CUDA events, which the device timestamps."""

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
    """Return the free MiB of the GPU, or of this container's memory."""
    if kind == "cuda":
        return torch.cuda.mem_get_info()[0] / MIB
    free = psutil.virtual_memory().available
    limit = _container_limit()
    if limit is not None:
        free = min(free, limit - _container_use())
    return free / MIB


def total_memory(kind: str) -> float:
    """Return the total MiB of the GPU, or of this container's memory."""
    if kind == "cuda":
        return torch.cuda.mem_get_info()[1] / MIB
    total = psutil.virtual_memory().total
    return min(total, _container_limit() or total) / MIB


def _container_limit() -> int | None:
    for folder, version in _memory_groups():
        text = (folder / version.limit).read_text().strip()
        if text.isdecimal() and int(text) < UNLIMITED_BYTES:
            return int(text)
    return None


def _container_use() -> int:
    """Return the container's bytes in use, without reclaimable page cache."""
    folder, version = _memory_groups()[0]
    stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return int((folder / version.use).read_text()) - int(stat.get(version.reclaimable, 0))


def _memory_groups() -> list[tuple[Path, MemoryFiles]]:
    """Return the folders that have this container's memory limit, in each version; or none."""
    both = ((CGROUP, VERSION_2), (CGROUP / "memory", VERSION_1))
    return [(folder, version) for folder, version in both if (folder / version.limit).exists()]


def cores() -> int:
    """Return how many cores this process may use, within its container's quota."""
    allowed = len(os.sched_getaffinity(0))
    return min(allowed, math.ceil(_quota() or allowed))


def threads() -> int:
    """Return how many threads torch should use: more than the quota would be throttled."""
    share = _quota()
    usual = torch.get_num_threads()
    return usual if share is None else min(usual, max(int(share), 1))


def throttled_us() -> int:
    """Return the microseconds for which this container's quota has throttled it so far."""
    stat = CGROUP / "cpu.stat"
    lines = stat.read_text().splitlines() if stat.exists() else []
    return int(dict(line.split() for line in lines).get("throttled_usec", 0))


def _quota() -> float | None:
    """Return the container's quota in cores; None without a quota."""
    limit = CGROUP / "cpu.max"
    share, _, period = limit.read_text().partition(" ") if limit.exists() else ("max", "", "")
    return int(share) / int(period) if share.isdecimal() else None


def describe(
    share: float, max_memory_mib: float | None, device: str | None = None
) -> dict[str, Any]:
    """Return the fields of `measuring.Announcement`, except `worker`.

    `memory` is a model's limit on an otherwise idle machine: a larger model could never run here.

    Args:
        share: share of the machine's memory that a model may use.
        max_memory_mib: limit of a model's memory, if lower.
        device: `cpu` or `cuda`; by default `cuda` on a machine with a GPU.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    memory = total_memory(kind) * share
    attentions = ["eager", "sdpa"]
    if kind == "cuda":
        from transformers.utils import is_flash_attn_2_available  # noqa: PLC0415  (slow)

        if is_flash_attn_2_available():
            attentions.append("flash_attention_2")
    return {
        "name": torch.cuda.get_device_name(0) if kind == "cuda" else cpu_name(),
        "device_class": "gpu" if kind == "cuda" else "cpu",
        "memory": min(memory, max_memory_mib or memory),
        "dtypes": [name for name, dtype in DTYPES.items() if _computes(kind, dtype)],
        "attentions": attentions,
        "compiles": compiles(kind),
    }


def machine(kind: str) -> dict[str, Any]:
    """Return the fields of `figures.Machine`, except the libraries' versions."""
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
    """Return whether torch.compile can work: it needs a compiler, and triton on a GPU."""
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if kind == "cuda":
        return bool(importlib.util.find_spec("triton") and (compiler or shutil.which("cc")))
    return bool(compiler)


def _computes(kind: str, dtype: torch.dtype) -> bool:
    """Return whether the device computes in a dtype, by running a layer's operations."""
    try:
        x = torch.rand(8, 8, device=kind, dtype=dtype)
        torch.nn.functional.layer_norm(torch.softmax(x @ x, -1), (8,)).sum().item()
    except RuntimeError:
        return False
    return True


def ceilings(kind: str, dtype: str) -> dict[str, float]:
    """Measure the device's ceilings: `bandwidth` in GB/s, `compute` in GFLOP/s.

    The numbers are random: a product of zeros draws less power and so runs faster. The right
    matrix is laid out like a layer's weights: on a CPU without float16 instructions, torch takes
    nine times as long for the other layout.
    """
    source = torch.rand(COPY_BYTES[kind] // 4, device=kind)
    target = torch.empty_like(source)
    copying = _seconds(kind, lambda: target.copy_(source))
    size = MATRIX_ROWS[kind]
    left, right = (torch.randn(size, size, device=kind).to(DTYPES[dtype]) for _ in range(2))
    product = torch.empty_like(left)
    multiplying = _seconds(kind, lambda: torch.mm(left, right.t(), out=product))
    return {
        "bandwidth": 2 * COPY_BYTES[kind] / copying / 1e9,
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
    while kind == "cuda" and time.perf_counter() - began < RAMP_UP_S:
        once()
    return statistics.median(once() for _ in range(REPEATS))


def return_freed_memory() -> None:
    """Make the C library return freed memory at once, until this process ends."""
    if not ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES):
        raise OSError("the C library does not return freed memory")


class CpuMemory:
    """Meter of this process's peak resident set since the last reset."""

    def limit(self, mib: float) -> None:
        """Limit the memory that can be allocated from now on."""
        now = psutil.Process().memory_info().data
        resource.setrlimit(resource.RLIMIT_DATA, (now + int(mib * MIB), resource.RLIM_INFINITY))

    def reset(self) -> None:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak

    def peak(self) -> dict[str, float | None]:
        peak = peak_rss()
        if peak is None:
            raise OSError("the kernel does not report the peak of the resident set")
        return {"peakRss": peak}


def peak_rss() -> float | None:
    """Return the peak resident set of this process since the last reset, in MiB.

    Returns None where the kernel does not report it, as in some sandboxes.
    """
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None


class CudaMemory:
    """Meter of the device allocator's peak since the last reset."""

    def __init__(self) -> None:
        self.host = CpuMemory()

    def limit(self, mib: float) -> None:
        total = torch.cuda.mem_get_info()[1] / MIB
        torch.cuda.set_per_process_memory_fraction(min(mib / total, 1.0))

    def reset(self) -> None:
        with contextlib.suppress(OSError):  # the host's peak is secondary in a GPU's run
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


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Answer `{maxMemoryMib, memoryShare, device?}` with the description of this machine."""
    return describe(question["memoryShare"], question["maxMemoryMib"], question.get("device"))


if __name__ == "__main__":
    answer_questions(answer)
