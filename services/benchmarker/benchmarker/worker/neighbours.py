"""How many cores others kept busy while this process measured, where none was left idle."""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import psutil

# The kernel counts in steps of 10 ms, so that less than this says little, in seconds.
LEAST = 0.5
# As long as so many cores stand idle, whoever is busy on the others takes none from this process.
ROOM = 1.0


class Seconds(NamedTuple):
    """Of the clock, and what the cores and this process did in it."""

    passed: float
    busy: float
    idle: float
    own: float


def count() -> Seconds:
    """Of the cores that this process may run on: in a container the host may have many more."""
    mine = os.sched_getaffinity(0)
    cores = [core for n, core in enumerate(psutil.cpu_times(percpu=True)) if n in mine]
    idle = sum(core.idle + getattr(core, "iowait", 0.0) for core in cores)
    guests = sum(getattr(core, "guest", 0.0) for core in cores)  # counted as the user's already
    busy = sum(map(sum, cores)) - idle - guests
    return Seconds(time.perf_counter(), busy, idle, time.process_time())


class Neighbours:
    """Sums over blocks: a block alone may be shorter than what the kernel counts in."""

    def __init__(self, count: Callable[[], Seconds] = count) -> None:
        self._count = count
        self._start = Seconds(0.0, 0.0, 0.0, 0.0)
        self._sums = (0.0, 0.0, 0.0)

    def start(self) -> None:
        self._start = self._count()

    def stop(self) -> float | None:
        """Cores on average, of all blocks so far; None as long as they are too short to say."""
        now, start = self._count(), self._start
        passed, others, idle = self._sums
        passed += now.passed - start.passed
        others += (now.busy - start.busy) - (now.own - start.own)
        idle += now.idle - start.idle
        self._sums = (passed, others, idle)
        if passed < LEAST:
            return None
        return 0.0 if idle >= ROOM * passed else max(others / passed, 0.0)
