import pytest

from benchmarker.worker.neighbours import Neighbours


class FakeMachine:
    """Seconds, of the wall and of work, that pass only when told to."""

    def __init__(self) -> None:
        self.now = self.busy = self.own = 100.0
        counters = (lambda: self.now, lambda: self.busy, lambda: self.own)
        self.neighbours = Neighbours(*counters)

    def block(self, seconds: float, own: float, others: float) -> float | None:
        self.neighbours.start()
        self.now += seconds
        self.own += own * seconds
        self.busy += (own + others) * seconds
        return self.neighbours.stop()


@pytest.mark.parametrize("others", [0.0, 0.25, 1.0, 3.5])
def test_what_others_work_is_told_from_what_is_measured(others: float) -> None:
    assert FakeMachine().block(1.0, own=1.9, others=others) == pytest.approx(others, rel=1e-9)


def test_short_blocks_are_summed_before_anything_is_said() -> None:
    machine = FakeMachine()
    assert machine.block(0.2, own=1, others=1) is None
    machine.busy += 50  # between two blocks nobody measures
    assert machine.block(0.2, own=1, others=0) is None
    assert machine.block(0.6, own=1, others=0) == pytest.approx(0.2, rel=1e-9)


def test_counting_that_is_coarse_makes_no_negative_neighbours() -> None:
    assert FakeMachine().block(1.0, own=1.0, others=-0.01) == 0.0
