"""The number of cores that other processes kept busy during a measurement."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

# The kernel counts in steps of 10 ms, so that a shorter window is too coarse.
MIN_WINDOW_S = 0.5
# With this many idle cores, other processes do not slow this one down.
MIN_IDLE_CORES = 1.0


class CoreTimes(NamedTuple):
    """Seconds of wall time, of busy and idle cores, and of this process."""

    passed: float
    busy: float
    idle: float
    own: float


def count() -> CoreTimes:
    """Read the times of the cores that this process may run on."""
    own = os.sched_getaffinity(0)
    cores = [core for n, core in enumerate(psutil.cpu_times(percpu=True)) if n in own]
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    guests = sum(getattr(core, "guest", 0.0) for core in cores)  # included in user time
    busy = sum(map(sum, cores)) - idle - guests
    return CoreTimes(time.perf_counter(), busy, idle, time.process_time())


class Neighbours:
    """Meter of cores that other processes keep busy, over all blocks: one may be too short."""

    def __init__(self, count: Callable[[], CoreTimes] = count) -> None:
        self._count = count
        self._start = CoreTimes(0.0, 0.0, 0.0, 0.0)
        self._sums = (0.0, 0.0, 0.0)

    def start(self) -> None:
        self._start = self._count()

    def stop(self) -> float | None:
        """Return the mean number of busy cores so far; None while the blocks are too short."""
        now, start = self._count(), self._start
        passed, others, idle = self._sums
        passed += now.passed - start.passed
        others += (now.busy - start.busy) - (now.own - start.own)
        idle += now.idle - start.idle
        self._sums = (passed, others, idle)
        if passed < MIN_WINDOW_S:
            return None
        return 0.0 if idle >= MIN_IDLE_CORES * passed else max(others / passed, 0.0)
