"""The levels, sizes and times that findings and their sentences state."""

from collections.abc import Callable
from datetime import datetime, timedelta

import numpy as np
import pytest

from common.contracts.timestamps import to_us
from metrics.arrays import Floats
from metrics.findings import Changes, examine, find_changes
from metrics.plots import draw
from metrics.recommendations import recommend
from metrics.window import HOUR, History, bucket, spans

# Not a whole hour: the hours in which levels change contain a part of each.
END = datetime.fromisoformat("2026-03-05T14:32:00Z")
NO_LIMIT: dict[str, float] = {}


def recorded(
    level: Callable[[Floats], Floats], *, days: int = 7, minutes: int = 5, noise: float = 5.0
) -> History:
    """Return days of samples; `level` gets the hours from each one to the newest."""
    count = days * 1_440 // minutes
    at = to_us(END) - np.arange(count)[::-1] * minutes * 60_000_000
    value = level((at[-1] - at) / 3.6e9) + noise * np.random.default_rng(3).normal(size=count)
    nothing = np.empty(0, np.int64)
    return History(bucket(spans(at, value), HOUR), nothing, nothing, at, value)


def changes_of(one: History, metric: str = "latency") -> Changes:
    begin = int(one.hours["at"][0])
    return find_changes({metric: one}, examine({metric: one}), {}, begin)[metric]


def sentences(
    one: History, metric: str = "latency", *, limit: float = 0.0, later: timedelta = HOUR
) -> list[str]:
    latest = {"memory_limit": limit} if limit else NO_LIMIT
    return recommend({metric: changes_of(one, metric)}, {metric: one}, latest, END + later)


def between(first: float, last: float, high: float) -> Callable[[Floats], Floats]:
    """Return a level of 100, and another one between two numbers of hours ago."""
    return lambda ago: np.where((ago < first) & (ago >= last), high, 100.0)


@pytest.mark.parametrize("high", [200.0, 10_000.0])
@pytest.mark.parametrize(("first", "last", "days"), [(90, 80, 7), (30, 24, 7), (3, 0, 1)])
def test_the_level_before_an_incident_is_not_drawn_towards_it(
    first: float, last: float, days: int, high: float
) -> None:
    [event] = changes_of(recorded(between(first, last, high), days=days)).events
    assert event.kind == "incident"
    assert event.before == pytest.approx(100.0, abs=1.0)
    assert event.level == pytest.approx(high, rel=0.02)
    assert event.size == pytest.approx(high - 100.0, rel=0.03)


def test_the_levels_of_two_incidents_and_a_step_are_their_means() -> None:
    def level(ago: Floats) -> Floats:
        return (
            np.where(ago < 60, 150.0, 100.0)
            + np.where((ago < 95) & (ago >= 88), 90.0, 0.0)
            + np.where((ago < 30) & (ago >= 24), 150.0, 0.0)
        )

    first, step, second = changes_of(recorded(level)).events
    levels = [first.before, first.level, step.before, step.level, second.before, second.level]
    assert levels == pytest.approx([100, 190, 100, 150, 150, 300], abs=1.2)


@pytest.mark.parametrize("noise", [0.0, 0.01, 1.0])
@pytest.mark.parametrize("minutes", [5, 15, 60])
def test_a_leak_with_little_noise_has_its_rate(noise: float, minutes: int) -> None:
    leak = recorded(lambda ago: 268 - ago, minutes=minutes, noise=noise)
    [event] = changes_of(leak).events
    assert (event.kind, event.end) == ("slope", None)
    assert event.size == pytest.approx(24.0, rel=0.005)


@pytest.mark.parametrize(("hours", "kind"), [(10.6, "incident"), (11.9, "incident"), (13, "step")])
def test_a_change_is_a_step_once_it_has_lasted_for_half_a_day(hours: float, kind: str) -> None:
    [event] = changes_of(recorded(between(hours, 0, 140.0))).events
    assert (event.kind, event.end) == (kind, None)


def test_a_change_is_not_said_to_last_when_the_samples_have_ended() -> None:
    high = recorded(between(5, 0, 200.0))
    [now] = sentences(high)
    assert now.startswith(
        "Latency has been 100 % higher for 6 hours, since Thursday 5 March, 09:37"
    )
    [sentence] = sentences(high, later=timedelta(days=3))
    assert sentence.startswith(
        "Latency had been 100 % higher since Thursday 5 March, 09:37 UTC when its samples ended:"
        " 200 ms on average, 100 ms before. There are none after Thursday 5 March, 15:00 UTC."
    )


def test_a_passed_incident_is_followed_by_normal_levels_only_while_there_are_samples() -> None:
    passed = recorded(between(40, 14, 226.0))
    assert [sentence.endswith("It has been normal since.") for sentence in sentences(passed)] == [
        True
    ]
    [sentence] = sentences(passed, later=timedelta(days=2))
    assert sentence.endswith("usually 100 ms.")


@pytest.mark.parametrize("metric", ["memory_usage", "disk_free"])
def test_a_slope_is_not_said_to_go_on_when_the_samples_have_ended(metric: str) -> None:
    leak = recorded(lambda ago: 4_000 + 12 * (168 - ago), noise=20.0)
    [now] = sentences(leak, metric, limit=8_192.0)
    assert "grows by 288" in now
    [sentence] = sentences(leak, metric, limit=8_192.0, later=timedelta(days=3))
    assert "grew by 288" in sentence
    assert "until its samples ended, from 4,0" in sentence
    assert "There are none after Thursday 5 March, 15:00 UTC." in sentence
    assert "limit" not in sentence


def test_the_day_on_which_memory_is_full_counts_from_the_newest_sample() -> None:
    """At 288 MiB a day from 6,016 MiB, 8,192 MiB are reached 7.56 days later."""
    leak = recorded(lambda ago: 6_016 - 12 * ago, noise=20.0)
    full = END + timedelta(days=(8_192 - 6_016) / 288)
    for later in (timedelta(minutes=1), timedelta(minutes=80)):
        [sentence] = sentences(leak, "memory_usage", limit=8_192.0, later=later)
        assert f"limit of 8,192 MiB on {full:%A} {full.day} {full:%B}" in sentence


@pytest.mark.parametrize("few", [True, False])
def test_an_incident_that_lasts_is_drawn_up_to_the_newest_sample(few: bool) -> None:
    """Not to the end of its hour, which has yet to pass."""
    one = recorded(between(5, 0, 200.0))
    if not few:
        one = History(one.hours, one.bins, one.counts, newest=to_us(END))
    changes = changes_of(one)
    for style in ("series", "plotly", "vega-lite"):
        plot = str(draw("latency", one, style, changes))
        assert "2026-03-05T14:32:00Z" in plot
        assert "2026-03-05T15:00:00Z" not in plot
