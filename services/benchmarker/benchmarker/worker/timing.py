"""Timing of calls by the wall clock, and by the device's own clock if it has one.

Only the clock is read between two calls of a block. Garbage collection stays on: without it,
reference cycles accumulate, each call takes fresh memory, and is a tenth to a sixth slower than
in real use.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Protocol

Call = Callable[[], Any]
Clock = Callable[[], int]

# Timings are steady when the medians of the last windows differ by at most this factor.
STEADY_RATIO = 1.10
WINDOW_CALLS = 5
STEADY_WINDOWS = 3
# Bounds on warming a machine that does not become steady.
MAX_WARM_CALLS = 200
MAX_WARM_S = 4.0


class Device(Protocol):
    """Device that runs calls; a GPU may still be running a call that has returned."""

    def synchronize(self) -> None: ...

    def mark(self) -> Any:
        """Mark a moment in the device's queue of work."""
        ...

    def between(self, start: Any, end: Any) -> int:
        """Return the nanoseconds between two marks that the device has passed."""
        ...


class Cpu:
    """A processor, whose only clock is the wall clock."""

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
    """Nanoseconds of each call; `steps`: those from a call's start to each of its tokens."""

    wall: list[int]
    device: list[int] | None = None
    steps: list[list[int]] | None = None


@dataclass
class Steps:
    """The moments at which a call generated its tokens, as marks of the device."""

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
    """Time each of a number of calls.

    The device is idle before a call starts and has finished it when the clock is read again, so
    that no work is attributed to the next call.
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
    """Repeat a call until its times are steady, or a limit is reached.

    Returns:
        The number of calls, and whether they became steady; None if calls are too slow to judge.
    """
    for _ in range(at_least):
        call()
    device.synchronize()
    began = clock()
    medians: list[float] = []
    calls = at_least
    while calls < at_least + MAX_WARM_CALLS and clock() - began < MAX_WARM_S * 1e9:
        times = []
        for _ in range(WINDOW_CALLS):
            start = clock()
            call()
            device.synchronize()
            times.append(clock() - start)
        calls += WINDOW_CALLS
        medians.append(median(times))
        last = medians[-STEADY_WINDOWS:]
        if len(last) == STEADY_WINDOWS and max(last) <= STEADY_RATIO * min(last):
            return calls, True
    return calls, False if len(medians) >= STEADY_WINDOWS else None
