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


def test_the_search_finds_a_nearly_best_size_in_half_the_grid() -> None:
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


def test_the_search_usually_finds_the_optimal_size_of_the_whole_grid() -> None:
    """It finds the size on nine curves in ten, and loses less than 1 % on average."""
    order = random.Random(5)
    measured_share = short = 0.0
    same = 0
    for number in range(CURVES):
        latency = curve(order, GRID, cliff=number % 4 == 0)
        measured = explore(latency, None)
        measured_share += len(measured) / len(GRID) / CURVES
        optimal, best = search.optimal(measured, None), search.best(latency, None)
        same += optimal == search.optimal(latency, None)
        reached = (optimal / latency[optimal]) / (best / latency[best])
        short += max(search.GOOD_SHARE - reached, 0) / CURVES
        smaller = [size for size in measured if size < optimal]
        enough = search.GOOD_SHARE * max(size / measured[size] for size in measured)
        assert all(size / measured[size] < enough for size in smaller)
    assert measured_share <= 0.55
    assert same >= 0.9 * CURVES
    assert short <= 0.01


@pytest.mark.parametrize("limited", [False, True])
def test_both_neighbours_of_the_optimal_size_are_measured(limited) -> None:
    order = random.Random(9)
    for number in range(200):
        latency = curve(order, GRID, cliff=number % 4 == 0)
        budget = budget_for(order, latency) if limited else None
        measured = explore(latency, budget)
        optimal = search.optimal(measured, budget)
        if optimal is not None:
            place = GRID.index(optimal)
            assert {*GRID[max(place - 1, 0) : place + 2]} <= set(measured)


@pytest.mark.parametrize("full", [2, 24, 256])
def test_no_size_above_one_that_does_not_fit_is_measured(full) -> None:
    seen: dict[int, Sample] = {}
    while (size := next_size(seen, GRID, None)) is not None:
        assert all(size < other for other, sample in seen.items() if sample.latency is None)
        seen[size] = Sample(None if size >= full else 1.0 + size / 100)
    fitting = [size for size, sample in seen.items() if sample.latency]
    assert max(fitting) == max(size for size in GRID if size < full)


def test_the_search_ends_when_a_single_sample_exceeds_the_budget() -> None:
    assert next_size({}, GRID, 1.0) == 1
    assert next_size({1: Sample(2.0)}, GRID, 1.0) is None
