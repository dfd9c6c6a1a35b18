import os

import pytest

from benchmarker.worker.neighbours import CoreTimes, Neighbours, count


class FakeMachine:
    """A fake machine with four cores, whose wall and CPU time advance only on request."""

    def __init__(self) -> None:
        self.now = CoreTimes(100.0, 100.0, 100.0, 100.0)
        self.neighbours = Neighbours(lambda: self.now)

    def work(self, seconds: float, own: float, others: float) -> None:
        changes = (1, own + others, 4 - own - others, own)
        self.now = CoreTimes(
            *(value + seconds * change for value, change in zip(self.now, changes, strict=True))
        )

    def block(self, seconds: float, own: float, others: float) -> float | None:
        self.neighbours.start()
        self.work(seconds, own, others)
        return self.neighbours.stop()


@pytest.mark.parametrize("others", [0.0, 0.25, 1.0, 3.5])
def test_only_the_cores_of_other_processes_are_counted(others: float) -> None:
    assert FakeMachine().block(1.0, own=3.9, others=others) == pytest.approx(others, rel=1e-9)


def test_short_blocks_yield_no_figure_until_their_sum_is_long_enough() -> None:
    machine = FakeMachine()
    assert machine.block(0.2, own=3, others=1) is None
    machine.work(50, own=0, others=4)  # not measured between two blocks
    assert machine.block(0.2, own=4, others=0) is None
    assert machine.block(0.6, own=4, others=0) == pytest.approx(0.2, rel=1e-9)


def test_coarse_counters_yield_no_negative_neighbours() -> None:
    assert FakeMachine().block(1.0, own=4.0, others=-0.01) == 0.0


def test_neighbours_count_only_if_no_core_is_idle() -> None:
    """A container on a large machine usually has idle cores."""
    assert FakeMachine().block(1.0, own=1.0, others=2.0) == 0.0
    assert FakeMachine().block(1.0, own=1.0, others=2.5) == pytest.approx(2.5)


def test_times_are_read_only_of_cores_that_this_process_may_run_on() -> None:
    everywhere = os.sched_getaffinity(0)
    whole = count()
    try:
        os.sched_setaffinity(0, {min(everywhere)})
        part = count()
    finally:
        os.sched_setaffinity(0, everywhere)
    seconds = (whole.busy + whole.idle) / len(everywhere)  # of one core, since the machine started
    assert part.busy + part.idle == pytest.approx(seconds, rel=0.05)
