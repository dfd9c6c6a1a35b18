import random

import pytest
from synthetic_curves import budget_for, curve

from benchmarker import search
from benchmarker.search import GRID, Sample, next_size

CURVES = 1000


def explore(latency: dict[int, float], budget: float | None) -> dict[int, float]:
    seen: dict[int, Sample] = {}
    while (size := next_size(seen, GRID, budget)) is not None:
        assert size not in seen
        seen[size] = Sample(latency[size])
    return {size: sample.latency for size, sample in seen.items()}


def test_on_a_thousand_curves_half_the_grid_finds_nearly_the_best() -> None:
    order = random.Random(5)
    measured_share = regret = 0.0
    for number in range(CURVES):
        latency = curve(order, GRID, cliff=number % 4 == 0)
        budget = budget_for(order, latency)
        measured = explore(latency, budget)
        measured_share += len(measured) / len(GRID) / CURVES
        pick, best = search.best(measured, budget), search.best(latency, budget)
        if best is None:
            assert pick is None
            continue
        assert budget is None or latency[pick] <= budget
        regret += (1 - (pick / latency[pick]) / (best / latency[best])) / CURVES
    assert measured_share <= 0.55
    assert regret <= 0.01


def test_both_neighbours_of_the_best_are_measured() -> None:
    order = random.Random(9)
    for number in range(200):
        latency = curve(order, GRID, cliff=number % 4 == 0)
        measured = explore(latency, None)
        place = GRID.index(search.best(measured, None))
        assert {*GRID[max(place - 1, 0) : place + 2]} <= set(measured)


@pytest.mark.parametrize("full", [2, 24, 256])
def test_sizes_beyond_one_that_does_not_fit_are_left_alone(full) -> None:
    seen: dict[int, Sample] = {}
    while (size := next_size(seen, GRID, None)) is not None:
        assert all(size < other for other, sample in seen.items() if sample.latency is None)
        seen[size] = Sample(None if size >= full else 1.0 + size / 100)
    fitting = [size for size, sample in seen.items() if sample.latency]
    assert max(fitting) == max(size for size in GRID if size < full)


def test_nothing_more_is_measured_when_one_sample_is_too_slow_already() -> None:
    assert next_size({}, GRID, 1.0) == 1
    assert next_size({1: Sample(2.0)}, GRID, 1.0) is None
