"""How many cores others kept busy while this process measured."""

import time
from collections.abc import Callable

import psutil

# The kernel counts in steps of 10 ms, so that less than this says little, in seconds.
LEAST = 0.5


def busy_seconds() -> float:
    """Of all cores since the machine was started."""
    times = psutil.cpu_times()
    return float(
        sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
    )


class Neighbours:
    """Sums over blocks: a block alone may be shorter than what the kernel counts in."""

    def __init__(
        self,
        clock: Callable[[], float] = time.perf_counter,
        busy: Callable[[], float] = busy_seconds,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        self._counters = (clock, busy, own)
        self._start = (0.0, 0.0, 0.0)
        self.others = 0.0
        self.seconds = 0.0

    def start(self) -> None:
        clock, busy, own = self._counters
        self._start = (clock(), busy(), own())

    def stop(self) -> float | None:
        """Cores on average, of all blocks so far; None as long as they are too short to say."""
        passed, busy, own = (
            counter() - before for counter, before in zip(self._counters, self._start, strict=True)
        )
        self.seconds += passed
        self.others += busy - own
        return max(self.others / self.seconds, 0.0) if self.seconds >= LEAST else None
