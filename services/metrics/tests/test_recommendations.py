import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from common.contracts.timestamps import from_us, to_us
from metrics import findings, recommendations
from metrics.arrays import Floats, Times
from metrics.baselines import baseline
from metrics.findings import examine, find_changes
from metrics.shape import Event, Shape
from metrics.window import EMPTY, HOUR, History, bucket, spans

START = datetime(2026, 3, 1, tzinfo=UTC)


def recommend(
    histories: Mapping[str, History], latest: Mapping[str, float], *, later: timedelta = HOUR
) -> list[str]:
    """Return the recommendations, some time after the beginning of the last hour."""
    changes = find_changes(histories, examine(histories), {}, to_us(START))
    last = max((one.hours["at"][-1] for one in histories.values()), default=to_us(START))
    return recommendations.recommend(changes, histories, latest, from_us(int(last)) + later)


def history(*levels: tuple[int, float], noise: float = 0.05) -> History:
    """Return a history with some hours at each level, and a sample every ten minutes."""
    random = np.random.default_rng(3)
    means = np.repeat([level for _, level in levels], [6 * hours for hours, _ in levels])
    value = means * (1 + noise * random.normal(size=len(means)))
    at = to_us(START) + np.arange(len(value)) * 600_000_000
    nothing = np.empty(0, np.int64)
    return History(bucket(spans(at, value), HOUR), nothing, nothing)


def test_a_healthy_model_gets_no_recommendation() -> None:
    steady = {name: history((700, 10.0)) for name in ("latency", "throughput", "memory_usage")}
    assert recommend(steady, {"memory_limit": 16_384.0}) == []
    assert recommend({}, {}) == []


def test_noise_with_the_heaviest_tails_is_rarely_mistaken_for_a_change() -> None:
    changes = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        at = to_us(START) + np.arange(400) * 3_600_000_000
        nothing = np.empty(0, np.int64)
        noise = History(bucket(spans(at, random.lognormal(3, 1, 400)), HOUR), nothing, nothing)
        changes += len(recommend({"latency": noise}, {}))
    assert changes <= 1


def test_a_regression_is_reported_with_its_date_and_figures() -> None:
    [sentence] = recommend({"latency": history((240, 40.0), (100, 55.0))}, {})
    assert sentence.startswith("Latency has been 3")
    assert "since Wednesday 11 March, 00:00 UTC" in sentence
    assert "55" in sentence and "40" in sentence and " ms" in sentence  # noqa: PT018


@pytest.mark.parametrize("ended", [True, False])
def test_an_incident_is_as_large_as_its_samples_wherever_in_the_hour_it_begins(
    ended: bool,
) -> None:
    """The hours in which an incident begins and ends contain only a part of it."""
    random = np.random.default_rng(4)
    at = to_us(START) + np.arange(7 * 288) * 300_000_000
    value = 40.0 * random.normal(1, 0.03, len(at))
    first = 1_000 if ended else len(at) - 66
    incident = slice(first, first + 66)  # five hours and a half
    value[incident] *= 3
    nothing = np.empty(0, np.int64)
    one = History(bucket(spans(at, value), HOUR), nothing, nothing, at, value)
    found = find_changes({"latency": one}, examine({"latency": one}), {}, to_us(START))
    [event] = found["latency"].events
    assert (event.kind, event.begin) == ("incident", at[first])
    assert event.level == pytest.approx(value[incident].mean(), rel=0.01)
    assert event.size == pytest.approx(event.level - 40.0, rel=0.02)


@pytest.mark.parametrize("begins", [0, 20, 40])
@pytest.mark.parametrize(("days", "ended"), [(1, False), (7, True), (7, False)])
def test_an_incident_beside_a_wave_of_any_period_is_found(
    days: int, ended: bool, begins: int
) -> None:
    """A wave of 10 h 28 min is neither a daily season nor noise."""
    random = np.random.default_rng(2)
    count = days * 288
    at = to_us(START) + begins * 60_000_000 + np.arange(count) * 300_000_000
    value = 12 + 2 * np.sin(np.arange(count) / 20) + 0.6 * random.normal(size=count)
    wave = history_of(at, value)
    assert findings_of(wave) == []
    usual = baseline(wave)  # of alerts, which cannot tell where the wave will be
    assert usual is not None
    assert usual.deviation > 1.9
    first = count - (230 if ended else 30)
    incident = slice(first, first + 30)
    value[incident] += 10
    [event] = findings_of(history_of(at, value))
    assert (event.kind, event.begin) == ("incident", at[first])
    assert event.end == (at[first + 30] if ended else None)
    assert event.size == pytest.approx(10, rel=0.1 if days > 1 else 0.25)


def test_a_single_sample_in_an_hour_of_many_is_no_change() -> None:
    """The hour that has just begun has few samples, and its mean is as noisy as they are."""
    random = np.random.default_rng(1)
    at = to_us(START) + np.arange(10 * 24 * 600) * 6_000_000
    value = random.lognormal(3, 0.5, len(at))  # one in forty is below 8
    at, value = np.append(at, at[-1] + 6_000_000), np.append(value, 8.0)
    crowded = bucket(spans(at, value), HOUR)
    assert crowded["count"][-1] == 1
    nothing = np.empty(0, np.int64)
    # Before any sample is read: edges would cost every answer another search and query.
    assert examine({"latency": History(crowded, nothing, nothing)})["latency"].events == []


def history_of(at: Times, value: Floats) -> History:
    """Return a history with all of its samples."""
    nothing = np.empty(0, np.int64)
    return History(bucket(spans(at, value), HOUR), nothing, nothing, at, value)


def findings_of(one: History) -> list[Event]:
    return find_changes({"m": one}, examine({"m": one}), {}, to_us(START))["m"].events


def leaking(level: Callable[[Floats], Floats], noise: float, days: int = 7) -> History:
    """Return days of memory that grows by 288 MiB a day, with a sample every 15 minutes."""
    hours = np.arange(days * 96) / 4
    random = np.random.default_rng(1)
    value = (4_000.0 + level(hours)) * random.normal(1, noise, len(hours))
    at = to_us(START) + np.arange(len(hours)) * 900_000_000
    nothing = np.empty(0, np.int64)
    return History(bucket(spans(at, value), HOUR), nothing, nothing, at, value)


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.005, 0.02])
def test_a_leak_that_a_restart_interrupts_is_reported_with_its_rate(noise: float) -> None:
    """The leak is neither a staircase of higher levels nor a counter that was reset."""
    memory = leaking(lambda hours: 12 * np.where(hours < 118.6, hours, hours - 118.6), noise)
    leak, restart = recommend({"memory_usage": memory}, {"memory_limit": 7_000.0})
    rate = re.match(r"Memory grows by (\d+) MiB a day since", leak)
    assert rate is not None
    assert float(rate[1]) == pytest.approx(288, rel=0.02)
    assert "it reaches its limit of 7,000 MiB on" in leak
    assert re.match(r"Memory fell by 1,4\d\d MiB on Thursday 5 March, 22:", restart)
    assert re.search(r"from 5,4\d\d MiB to (4,0|3,9)\d\d MiB.$", restart)


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.03])
def test_a_leak_with_repeated_restarts_is_reported_with_its_rate(noise: float) -> None:
    """The level does not change over the window, so no step or incident is reported."""
    restarts = np.array([0.0, 101.5, 200.2, 235.4, 254.6, 283.5])
    memory = leaking(
        lambda hours: 12 * (hours - restarts[np.searchsorted(restarts, hours, "right") - 1]),
        noise,
        days=14,
    )
    leak, *falls = recommend({"memory_usage": memory}, {})
    rate = re.match(r"Memory grows by (\d+) MiB a day since", leak)
    assert rate is not None
    assert float(rate[1]) == pytest.approx(288, rel=0.1)
    assert len(falls) >= 4
    assert all(sentence.startswith("Memory fell by") for sentence in falls)


@pytest.mark.parametrize("noise", [0.0, 0.0005, 0.005, 0.02])
def test_a_leak_beside_an_incident_is_reported_too(noise: float) -> None:
    memory = leaking(
        lambda hours: 12 * hours + np.where((hours > 73.4) & (hours < 88.4), 4_000, 0), noise
    )
    leak, incident = recommend({"memory_usage": memory}, {})
    rate = re.match(r"Memory grows by (\d+) MiB a day: from", leak)
    assert rate is not None
    assert float(rate[1]) == pytest.approx(288, rel=0.05)
    assert "higher for 15 hours" in incident


@pytest.mark.parametrize(("kind", "first", "last"), [("incident", 500, 509), ("step", 500, 672)])
def test_the_levels_beside_a_season_are_means_of_the_samples(
    kind: str, first: int, last: int
) -> None:
    """Values by day are twice those at night; an incident by day is compared with those by day."""
    random = np.random.default_rng(1)
    hours = np.arange(672 * 6) / 6
    at = to_us(START) + np.arange(len(hours)) * 600_000_000
    usual = np.where((hours % 24 >= 8) & (hours % 24 < 18), 120.0, 60.0)
    inside = (hours >= first) & (hours < last)
    value = usual - 30 * inside + 2 * random.normal(size=len(hours))
    [event] = findings_of(history_of(at, value))
    whole = (hours >= first - first % 24 + 24) & (hours < last) if kind == "step" else inside
    assert event.kind == kind
    assert event.before == pytest.approx(usual[whole].mean(), rel=0.02)
    assert event.level == pytest.approx(value[whole].mean(), rel=0.02)


@pytest.mark.parametrize("growing", [True, False])
def test_a_slope_that_begins_or_ends_with_a_step_is_reported_with_both(growing: bool) -> None:
    """The level beside the slope is constant, and nothing is reported about it."""
    random = np.random.default_rng(1)
    hours = np.arange(3_024) / 6
    at = to_us(START) + np.arange(len(hours)) * 600_000_000
    slope = 0.1 * (hours - 254)
    level = np.where(hours >= 254, 20 + slope, 0) if growing else np.where(hours < 254, slope, 20)
    events = findings_of(history_of(at, 40 + level + 1.2 * random.normal(size=len(hours))))
    step, slope = sorted(events, key=lambda event: event.kind, reverse=True)
    assert (step.kind, step.begin) == ("step", at[254 * 6])
    assert step.size == pytest.approx(20, rel=0.05)
    begin, end = (at[254 * 6], None) if growing else (at[0], at[254 * 6])
    assert (slope.kind, slope.begin, slope.end) == ("slope", begin, end)
    assert slope.size == pytest.approx(2.4, rel=0.05)


def curving(shape: Callable[[Floats], Floats]) -> History:
    """Return 30 days of latency that follows a curve, with a sample every ten minutes."""
    place = np.linspace(0, 1, 4_320)
    value = 100 + 20 * shape(place) + np.random.default_rng(1).normal(size=len(place))
    return history_of(to_us(START) + np.arange(len(place)) * 600_000_000, value)


@pytest.mark.parametrize(
    ("shape", "begins_after", "least", "most"),
    [
        (lambda place: 5 * place**2.2, 15, 5.0, 9.0),  # 7.3 a day in the end, 3.3 on average
        (lambda place: 3 * np.sqrt(place), 3, 0.9, 1.5),  # 1.0 and 2.0
        (lambda place: -4 * np.log1p(9 * place), 3, -3.5, -2.0),  # -2.4 and -6.1
    ],
)
def test_a_curve_that_still_moves_is_reported_as_the_slope_of_its_last_stretch(
    shape: Callable[[Floats], Floats], begins_after: int, least: float, most: float
) -> None:
    """Neither as a staircase, nor with the mean rate of the whole window."""
    one = {"latency": curving(shape)}
    [event] = findings_of(one["latency"])
    assert (event.kind, event.end) == ("slope", None)
    assert event.begin > to_us(START + timedelta(days=begins_after))
    assert least < event.size < most
    [sentence] = recommend(one, {})
    assert f"Latency {'grows' if least > 0 else 'falls'} by" in sentence


@pytest.mark.parametrize(
    "shape",
    [
        lambda place: 5 * np.exp(-place / 0.08),
        lambda place: -8 * np.exp(-place / 0.15),
        lambda place: 6 / (1 + np.exp((place - 0.4) / 0.04)),
    ],
)
def test_a_curve_that_has_levelled_off_is_reported_as_a_movement_that_ended(
    shape: Callable[[Floats], Floats],
) -> None:
    one = {"latency": curving(shape)}
    [event] = findings_of(one["latency"])
    assert event.kind == "slope"
    assert event.end is not None
    whole = 20 * float(np.ptp(shape(np.linspace(0, 1, 4_320))))
    assert 0.8 * whole < abs(event.rise) < 1.05 * whole
    [sentence] = recommend(one, {})
    assert "ms a day on average, from" in sentence
    assert sentence.endswith("and has been level since.")


@pytest.mark.parametrize("beside", ["slope", "step"])
def test_an_incident_of_rare_samples_is_reported_beside_another_change(beside: str) -> None:
    """The incident's values are not the greatest of all, but far from those around them."""
    hours = np.arange(30 * 24)
    level = 100 + (hours / 4 if beside == "slope" else np.where(hours > 500, 90.0, 0.0))
    value = level + np.where((hours >= 200) & (hours < 240), 30, 0)
    value = value + np.random.default_rng(1).normal(size=len(hours))
    at = to_us(START) + hours * 3_600_000_000
    nothing = np.empty(0, np.int64)
    latency = {"latency": History(bucket(spans(at, value), HOUR), nothing, nothing, at, value)}
    found = find_changes(latency, examine(latency), {}, to_us(START))["latency"].events
    assert sorted(event.kind for event in found) == ["incident", beside]
    [incident] = [event for event in found if event.kind == "incident"]
    assert incident.size == pytest.approx(30, rel=0.05)


def test_a_change_below_a_per_cent_is_stated_in_its_unit() -> None:
    [sentence] = recommend({"memory_usage": history((100, 4_000.0), (68, 4_015.0), noise=2e-4)}, {})
    assert re.match(r"Memory has been 1[456](\.\d)? MiB higher since", sentence)


def test_a_gap_within_a_season_is_no_change() -> None:
    """A year is divided into cells of three hours; an incomplete cell has another mean."""
    nothing = np.empty(0, np.int64)
    for seed in range(6):
        random = np.random.default_rng(seed)
        at = to_us(START) + (np.arange(365 * 288) + random.integers(0, 288)) * 300_000_000
        nightly = (at // 3_600_000_000 % 24 >= 2) & (at // 3_600_000_000 % 24 < 4)
        value = 100.0 + 60 * nightly + random.normal(0, 5, len(at))
        kept = np.ones(len(at), bool)
        for first in random.integers(0, len(at), 20):
            kept[first : first + int(random.integers(100, 1_000))] = False
        cells = bucket(spans(at[kept], value[kept]), HOUR)
        one = {"latency": History(cells, nothing, nothing)}
        assert find_changes(one, examine(one), {}, to_us(START))["latency"].events == []


def test_lower_throughput_is_a_regression_and_lower_latency_an_improvement() -> None:
    fell = history((240, 100.0), (100, 70.0))
    [sentence] = recommend({"throughput": fell}, {})
    assert "Throughput has been 30 % lower" in sentence
    assert "Look at what was deployed" in sentence
    [sentence] = recommend({"latency": fell}, {})
    assert "Latency has been 30 % lower" in sentence
    assert "worth keeping" in sentence


def test_a_cost_drift_is_stated_in_dollars() -> None:
    [sentence] = recommend({"cost_per_inference": history((240, 1e-4), (100, 1.5e-4))}, {})
    assert "$0.00015" in sentence


def test_memory_near_its_limit_gets_a_recommendation() -> None:
    used = {"gpu_memory_usage": history((50, 15_000.0), noise=0.0)}
    [sentence] = recommend(used, {"gpu_memory_limit": 16_384.0})
    assert "15,000 of 16,384 MiB (92 %)" in sentence
    assert recommend(used, {"gpu_memory_limit": 24_576.0}) == []
    assert recommend(used, {}) == []


@pytest.mark.parametrize(
    ("latest", "expected"),
    [
        ({"batch_size": 1.0}, "Batch size 8 would be 60 % cheaper"),
        ({"batch_size": 8.0}, None),
        ({"batch_size": 16.0}, None),  # a twentieth is not worth a change
        ({}, "Batch size 8 would be 20 % cheaper"),
    ],
)
def test_a_cheaper_batch_size_comes_from_the_measured_curve(
    latest: dict[str, float], expected: str | None
) -> None:
    curve = {f"cost_per_inference_batch_{size}": cost for size, cost in
             ((1, 1e-4), (8, 4e-5), (16, 4.2e-5))}  # fmt: skip
    recommendations = recommend(
        {"cost_per_inference": history((50, 5e-5), noise=0.0)}, {**curve, **latest}
    )
    assert [sentence.partition(":")[0] for sentence in recommendations] == (
        [expected] if expected else []
    )


async def test_the_answer_includes_the_recommendations(caller: Any) -> None:
    now = datetime.now(UTC)
    await caller.record(
        {
            "model_id": "m",
            "timestamp": (now - timedelta(hours=1)).isoformat(),
            "metrics": {"gpu_memory_usage": 79_000.0, "gpu_memory_limit": 81_920.0},
        }
    )
    [sentence] = (await caller.monitor()).recommendations
    assert "79,000 of 81,920 MiB (96 %)" in sentence


def test_the_search_for_changes_ends_before_the_callers_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A year of sixteen metrics that change all the time takes seconds."""
    now = 1_000.0

    def describe(_: History) -> Shape:
        nonlocal now
        now += 0.4
        return Shape()

    monkeypatch.setattr(findings, "describe", describe)
    monkeypatch.setattr(findings, "time", SimpleNamespace(time=lambda: now))
    histories = {f"metric_{n}": EMPTY for n in range(16)}
    shapes = examine(histories, deadline=now + 1.8)
    # 1.2 s; what is left is for sixteen plots.
    assert list(shapes) == ["metric_0", "metric_1", "metric_2"]
    assert len(examine(histories)) == 16
