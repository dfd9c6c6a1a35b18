"""Times calls: by the wall clock, and by the device's own where it has one.

Nothing but the clock stands between two calls of a block. Garbage is collected
as always: without that, what a model leaves in reference cycles stays, each
call takes fresh memory, and is a tenth to a sixth slower than in real use.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

Call = Callable[[], Any]
Clock = Callable[[], int]

# Warm when the medians of the last three windows differ by at most this factor.
STEADY = 1.10
WINDOW = 5
WINDOWS = 3
# Warming gives up on a machine that does not become steady after so many
# calls, and after so many seconds.
MOST_CALLS = 200
MOST_SECONDS = 4.0


class Device(Protocol):
    """Where the work runs. A CPU has finished a call when it returns; a GPU has not."""

    def synchronize(self) -> None: ...

    def mark(self) -> Any:
        """A moment in the device's own order of work."""
        ...

    def between(self, start: Any, end: Any) -> int:
        """Nanoseconds, once the device has passed both."""
        ...


class Cpu:
    """`mark` is the wall clock; there is no other."""

    def __init__(self, clock: Clock = time.perf_counter_ns) -> None:
        self.clock = clock

    def synchronize(self) -> None:
        pass

    def mark(self) -> int:
        return self.clock()

    def between(self, start: int, end: int) -> int:
        return end - start


@dataclass
class Times:
    """Nanoseconds per call; `steps` has the moment of each token since its call's start."""

    wall: list[int]
    device: list[int] | None = None
    steps: list[list[int]] | None = None


@dataclass
class Steps:
    """Filled by a call that generates: a mark for every token that is there."""

    device: Device
    marks: list[Any] = field(default_factory=list)

    def mark(self) -> None:
        self.marks.append(self.device.mark())


def time_calls(
    call: Call,
    calls: int,
    device: Device,
    *,
    steps: Steps | None = None,
    clock: Clock = time.perf_counter_ns,
) -> Times:
    """Time `calls` calls, each on its own.

    The device is empty before a call starts and has finished it when the clock
    is read again, so that no call's work is counted to the next one.
    """
    wall = [0] * calls
    marks: list[Any] = [None] * calls
    step_marks: list[list[Any]] = [[] for _ in range(calls)] if steps else []
    synchronize, mark = device.synchronize, device.mark
    own_clock = not isinstance(device, Cpu)
    for number in range(calls):
        if steps:
            steps.marks = step_marks[number]
        synchronize()
        start = clock()
        begin = mark() if own_clock or steps else None
        call()
        end = mark() if own_clock else None
        synchronize()
        wall[number] = clock() - start
        marks[number] = (begin, end)
    return Times(
        wall,
        [device.between(begin, end) for begin, end in marks] if own_clock else None,
        [
            [device.between(begin, moment) for moment in moments]
            for (begin, _), moments in zip(marks, step_marks, strict=True)
        ]
        if steps
        else None,
    )


def warm(
    call: Call, at_least: int, device: Device, *, clock: Clock = time.perf_counter_ns
) -> tuple[int, bool | None]:
    """Call until the times are steady.

    Returns:
        How many calls it took, and whether they became steady; None where calls are so slow that
        too few of them were made to say.
    """
    for _ in range(at_least):
        call()
    device.synchronize()
    began = clock()
    medians: list[float] = []
    calls = at_least
    while calls < at_least + MOST_CALLS and clock() - began < MOST_SECONDS * 1e9:
        times = []
        for _ in range(WINDOW):
            start = clock()
            call()
            device.synchronize()
            times.append(clock() - start)
        calls += WINDOW
        medians.append(median(times))
        last = medians[-WINDOWS:]
        if len(last) == WINDOWS and max(last) <= STEADY * min(last):
            return calls, True
    return calls, False if len(medians) >= WINDOWS else None
