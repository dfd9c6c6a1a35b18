"""Timing of generated tokens on a fake clock, where every figure is known exactly."""

import itertools

import pytest

from benchmarker.generation import describe_generation
from benchmarker.worker.timing import Cpu, Steps, time_calls, warm

EXACT = 1e-9


class FakeClock:
    """A fake clock that advances only on request, in nanoseconds."""

    def __init__(self) -> None:
        self.now = 123_456_789

    def __call__(self) -> int:
        return self.now

    def pass_ms(self, milliseconds: float) -> None:
        self.now += round(milliseconds * 1e6)


CASES = list(
    itertools.product(
        [1, 3, 16],  # batch size
        [2, 10, 37],  # new tokens
        [(200.0, 10.0), (5.0, 0.25), (0.001, 123.0)],  # ms to the first, ms between
        [1, 5],  # calls
    )
)


@pytest.mark.parametrize(("batch_size", "new", "times", "calls"), CASES)
def test_a_generations_figures_follow_from_the_times_of_its_tokens(
    batch_size, new, times, calls
) -> None:
    first, gap = times
    clock = FakeClock()
    device = Cpu(clock)
    steps = Steps(device)

    def call() -> None:
        clock.pass_ms(first)
        steps.mark()
        for _ in range(new - 1):
            clock.pass_ms(gap)
            steps.mark()
        clock.pass_ms(1.0)  # work after the last token

    timed = time_calls(call, calls, device, steps=steps, clock=clock)
    assert timed.device is None
    figures = describe_generation(timed.wall, timed.steps, batch_size, tokens=128)
    whole = first + gap * (new - 1) + 1.0
    assert timed.wall == [round(whole * 1e6)] * calls
    assert figures.time_to_first_token.mean == pytest.approx(first, rel=EXACT)
    assert figures.inter_token_latency.mean == pytest.approx(gap, rel=EXACT)
    assert figures.inter_token_latency.median == pytest.approx(gap, rel=EXACT)
    # Five calls of ten tokens have 45 gaps, and none from one call to the next.
    assert figures.inter_token_latency.samples == calls * (new - 1)
    assert figures.time_to_first_token.samples == calls
    assert figures.tokens_per_second == pytest.approx(batch_size * new / whole * 1e3, rel=EXACT)
    assert figures.prefill_tokens_per_second == pytest.approx(
        batch_size * 128 / first * 1e3, rel=EXACT
    )
    assert figures.decode_tokens_per_second == pytest.approx(batch_size / gap * 1e3, rel=EXACT)
    # The parts do not exceed the whole.
    assert first + gap * (new - 1) <= whole


def test_each_call_is_timed_separately() -> None:
    clock = FakeClock()
    durations = iter([1.0, 20.0, 0.5])
    timed = time_calls(lambda: clock.pass_ms(next(durations)), 3, Cpu(clock), clock=clock)
    assert timed.wall == [1_000_000, 20_000_000, 500_000]
    assert timed.steps is None


class FakeGpu:
    """A fake asynchronous device: calls queue work, and synchronisation finishes it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.work: list[float] = []
        self.passed = 0.0

    def launch(self, milliseconds: float) -> None:
        self.work.append(milliseconds)

    def mark(self):
        return self.passed + sum(self.work)

    def between(self, start, end) -> int:
        return round((end - start) * 1e6)

    def synchronize(self) -> None:
        self.clock.pass_ms(sum(self.work))
        self.passed += sum(self.work)
        self.work.clear()


def test_the_whole_call_is_timed_on_an_asynchronous_device() -> None:
    clock = FakeClock()
    gpu = FakeGpu(clock)

    def call() -> None:
        gpu.launch(7.0)
        clock.pass_ms(0.5)  # the host's own part

    timed = time_calls(call, 4, gpu, clock=clock)
    assert timed.wall == [7_500_000] * 4
    assert timed.device == [7_000_000] * 4


def test_warm_up_ends_when_times_are_steady_and_reports_unsteady_times() -> None:
    clock = FakeClock()
    device = Cpu(clock)
    cold = iter([100.0, 50.0, 20.0])
    calls, steady = warm(lambda: clock.pass_ms(next(cold, 1.0)), 2, device, clock=clock)
    assert steady is True
    assert calls < 30
    grow = itertools.count(1)
    calls, steady = warm(lambda: clock.pass_ms(1.5 ** next(grow)), 0, device, clock=clock)
    assert steady is False
    assert warm(lambda: clock.pass_ms(1000.0), 0, device, clock=clock) == (5, None)
