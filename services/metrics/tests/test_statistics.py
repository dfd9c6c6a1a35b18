"""Statistics compared with numpy and scipy, which compute them independently."""

import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats

from common.postgres import Database
from metrics import histogram, statistics, window
from metrics.snapshot import begin_snapshot
from metrics.units import lower_is_better

from .conftest import Caller

NOW = datetime.now(UTC)
Points = Sequence[tuple[datetime, float]]


async def store(caller: Caller, database: Database, points: Points, metric: str = "latency") -> int:
    """Store many samples directly, without the handlers."""
    [series] = await caller.handlers.series.number(caller.account, [("m", metric)])
    async with database.connection() as connection:
        async with connection.cursor().copy("copy samples (series, at, value) from stdin") as copy:
            for at, value in points:
                await copy.write_row((series, at, value))
        await connection.execute(
            "insert into stale (series, day) select distinct series, date_trunc('day', at, 'UTC')"
            " from samples where series = %s on conflict do nothing",
            [series],
        )
    return series


def reference(points: Points, metric: str = "latency") -> dict[str, Any]:
    """Compute mean, p95 and total of samples by numpy."""
    values = np.array([value for _, value in points])
    return {
        "mean": values.mean(),
        "p95": np.quantile(values, 0.95),
        "total": values.sum(),
        "minimum": values.min(),
        "maximum": values.max(),
        "count": len(values),
    }


def equal(figures: Any, expected: dict[str, Any], p95: float = 1e-9) -> None:
    for name, value in expected.items():
        actual = getattr(figures, name)
        if isinstance(value, str | int):
            assert actual == value, name
        else:
            assert actual == pytest.approx(value, rel=p95 if name == "p95" else 1e-9, abs=1e-12), (
                name
            )


@pytest.mark.parametrize("count", [1, 2, 3, 4_000])
async def test_few_samples_are_answered_exactly(
    caller: Caller, database: Database, count: int
) -> None:
    random = np.random.default_rng(count)
    points = [
        (NOW - timedelta(hours=float(random.uniform(0, 700))), float(value))
        for value in random.lognormal(3, 1, count)
    ]
    await store(caller, database, points)
    figures = (await caller.monitor()).statistics["latency"]
    equal(figures, reference(points))
    assert figures.exact


@pytest.mark.parametrize("rolled", [False, True])
async def test_the_p95_of_many_samples_is_within_one_per_cent(
    caller: Caller, database: Database, roll: Any, rolled: bool
) -> None:
    random, now = np.random.default_rng(1), datetime.now(UTC)
    points = [
        (now - timedelta(hours=float(hours)), float(value))
        for hours, value in zip(
            random.uniform(-20, 719.8, 30_000), random.lognormal(3, 1, 30_000), strict=True
        )
    ]
    await store(caller, database, points)
    if rolled:
        await roll()
    figures = (await caller.monitor()).statistics["latency"]
    equal(figures, reference(points), p95=0.01)
    assert not figures.exact


async def test_a_window_reads_only_the_rollups_that_it_uses(
    caller: Caller, database: Database, roll: Any
) -> None:
    """Whole days are read from the rollups of days, and the rest from those of hours."""
    random = np.random.default_rng(3)
    values = random.lognormal(3, 0.5, 16 * 24 * 30)
    points = [(NOW - timedelta(minutes=2 * n), float(v)) for n, v in enumerate(values)]
    series = await store(caller, database, points)
    await roll()
    async with database.connection() as connection:
        await begin_snapshot(connection)
        cursor = await connection.execute("select timescale_schema() is null")
        if await cursor.fetchone() != (True,):
            return  # there, rollups are read by chunk
        cursor = await connection.execute("select until from watermark")
        [(until,)] = await cursor.fetchall()
        _, sources = window._sources([series], NOW - timedelta(days=15), until, [], [])
        cursor = await connection.execute(f"explain (analyze, format json) {window.READ}", sources)
        [([answer],)] = await cursor.fetchall()
        scans = [node for node in _nodes(answer["Plan"]) if "Relation Name" in node]
        rollups = [node for node in scans if node["Relation Name"] in {"hours", "days"}]
        assert sum(node["Actual Rows"] for node in rollups) > 20
        assert not [node for node in rollups if node.get("Rows Removed by Filter")]
        cursor = await connection.execute(
            "select length(histogram), pg_column_compression(histogram) from days where series = %s"
            " order by 1 desc limit 1",
            [series],
        )
        [(length, compression)] = await cursor.fetchall()
        assert length > 1_200
        assert compression is None


def _nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


async def test_the_window_begins_at_the_exact_moment(
    caller: Caller, database: Database, roll: Any
) -> None:
    since = NOW - timedelta(days=7)
    points = [(since + timedelta(seconds=n / 10), 1.0) for n in range(-20_000, 20_000)]
    series = await store(caller, database, points)
    await roll()
    for moment in (since, since + timedelta(milliseconds=50), since + timedelta(minutes=20)):
        async with database.connection() as connection:
            histories = await window.read(connection, [series], moment)
            history = histories.histories[series]
        assert history.count == sum(at >= moment for at, _ in points)


async def test_a_late_sample_is_in_the_next_answer(caller: Caller, roll: Any) -> None:
    def record(hours: float, value: float) -> dict[str, Any]:
        when = (NOW - timedelta(hours=hours)).isoformat()
        return {"model_id": "m", "timestamp": when, "metrics": {"latency": value}}

    await caller.record(*(record(n / 10, 1.0) for n in range(5_000)))
    await roll()
    for hours in (0.01, 3, 30, 300):  # this hour, this day, a separate day, among others
        before = (await caller.monitor()).statistics["latency"]
        await caller.record(record(hours + 0.001, 1e6))
        after = (await caller.monitor()).statistics["latency"]
        assert after.count == before.count + 1
        assert after.maximum == 1e6
        await roll()
        assert (await caller.monitor()).statistics["latency"] == after


async def test_no_rollup_is_read_for_days_that_are_stale_in_every_series(
    caller: Caller, database: Database
) -> None:
    points = [(NOW - timedelta(hours=6 * n), float(n)) for n in range(40)]
    series = await store(caller, database, points)
    today = NOW.replace(hour=0, minute=0, second=0, microsecond=0)
    async with database.connection() as connection:
        await connection.execute(
            "delete from stale where series = %s and day = %s", [series, today - timedelta(days=5)]
        )
        await connection.execute("update watermark set until = date_trunc('hour', now(), 'UTC')")
        for ids, days in (([series], 4), ([series, series + 1], 0), ([], 0)):
            cursor = await connection.execute(window.STATE, [ids, NOW - timedelta(days=31)])
            rows = await cursor.fetchall()
            late = [(id, day.astimezone(UTC)) for _, id, day, *_ in rows if day]
            until = rows[0][0].astimezone(UTC)
            _, sources = window._sources(ids, NOW - timedelta(days=30), until, late, [])
            assert sources["until_day"] == today - timedelta(days=days)
        await connection.execute("rollback")


async def test_a_window_without_samples_has_null_figures(caller: Caller) -> None:
    when = (NOW - timedelta(days=3)).isoformat()
    await caller.record({"model_id": "m", "timestamp": when, "metrics": {"latency": 1.0}})
    answer = await caller.monitor(days=1, metrics=["other"])
    assert set(answer.statistics) == {"throughput", "latency", "costs", "other"}
    for figures in answer.statistics.values():
        assert (figures.mean, figures.p95, figures.total) == (None, None, None)
        assert (figures.trend, figures.count) == ("insufficient_data", 0)
    assert answer.plots == {"other": {}}


@pytest.mark.parametrize(
    ("metric", "slope", "trend"),
    [
        ("latency", 0.1, "degrading"),
        ("latency", -0.1, "improving"),
        ("throughput", 0.1, "improving"),
        ("throughput", -0.1, "degrading"),
        ("cost_per_inference", 0.1, "degrading"),
        ("latency", 0.0, "stable"),
    ],
)
async def test_a_trend_depends_on_which_direction_is_better(
    caller: Caller, database: Database, metric: str, slope: float, trend: str
) -> None:
    random = np.random.default_rng(5)
    points = [
        (NOW - timedelta(hours=n), 100 - slope * n + float(random.normal())) for n in range(200)
    ]
    await store(caller, database, points, metric)
    name = "costs" if metric == "cost_per_inference" else metric
    figures = (await caller.monitor()).statistics[name]
    assert figures.trend == trend
    assert figures.slope_per_day == pytest.approx(slope * 24, abs=0.2)


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("latency", True),
        ("latency_batch_8", True),
        ("unavailable_seconds", True),
        ("uptime_seconds", False),
        ("free_memory", False),
        ("gpu_memory_available_mib", False),
        ("energy_efficiency", False),
        ("accuracy", False),
        ("anything", False),
    ],
)
def test_the_name_of_a_metric_determines_its_better_direction(metric: str, lower: bool) -> None:
    assert lower_is_better(metric) is lower


values = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 2.0]),
    st.floats(-1e9, 1e9, allow_subnormal=False),
)


@given(
    st.lists(
        st.tuples(st.integers(0, 300), values), min_size=2, max_size=60, unique_by=lambda p: p[0]
    )
)
def test_the_slope_is_the_median_over_all_pairs(points: list[tuple[int, float]]) -> None:
    points.sort()
    times, means = np.array(points, float).T
    expected = stats.theilslopes(means, times).slope
    assert statistics.theil_sen(times, means) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=50))
async def test_the_middle_of_a_histogram_bin_is_within_half_a_per_cent_of_the_bins_values(
    database: Database, numbers: list[float]
) -> None:
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select log_bin(v) from unnest(%s::float8[]) with ordinality as u(v, n) order by n",
            [numbers],
        )
        bins = np.array([number for (number,) in await cursor.fetchall()])
    for value, middle in zip(numbers, histogram.middles(bins), strict=True):
        if math.isfinite(middle) and abs(value) > 1e-300:
            assert middle == pytest.approx(value, rel=0.00498)
    assert all(np.diff(bins[np.argsort(numbers)]) >= 0), "bins are in the order of the values"


@pytest.mark.parametrize(("count", "seconds"), [(5_000, 1_200), (10_000, 10_000), (9_000, 1)])
async def test_many_samples_in_a_short_time_are_drawn_with_several_points_an_hour(
    caller: Caller, database: Database, roll: Any, count: int, seconds: int
) -> None:
    random, now = np.random.default_rng(1), datetime.now(UTC)
    ago = 7_200 + np.linspace(0, seconds, count, endpoint=False)
    points = [
        (now - timedelta(seconds=float(s)), float(value))
        for s, value in zip(ago, random.lognormal(3, 1, count), strict=True)
    ]
    await store(caller, database, points)
    for _ in range(2):
        plot = (await caller.monitor(plot_format="series")).plots["latency"]
        values = [value for _, value in points]
        columns, width = plot["columns"], plot["bucketSeconds"]
        assert plot["pointsIn"] == count
        assert min(seconds, 150) <= plot["pointsOut"] <= 500
        assert (min(columns["minimum"]), max(columns["maximum"])) == (min(values), max(values))
        at = [datetime.fromisoformat(time) for time in columns["time"]]
        assert at == sorted(at)
        for time, mean in zip(at, columns["mean"], strict=True):
            assert time.timestamp() % width == 0
            inside = [v for t, v in points if time <= t < time + timedelta(seconds=width)]
            assert mean == pytest.approx(np.mean(inside))
        await roll()


async def test_the_largest_values_leave_every_figure_finite(caller: Caller, roll: Any) -> None:
    for sign in (1, -1):
        model = f"m{sign}"
        await caller.record(
            *(
                {
                    "model_id": model,
                    "timestamp": (NOW - timedelta(hours=24 + n / 200)).isoformat(),
                    "metrics": {"reward": sign * 1e100 * (1 if n < 4_000 else 0.5)},
                }
                for n in range(8_000)
            )
        )
    for _ in range(2):
        for sign in (1, -1):
            answer = await caller.monitor(f"m{sign}", metrics=["reward"])
            reward = answer.statistics["reward"]
            assert reward.total == pytest.approx(sign * 6e103)
            assert reward.p95 == pytest.approx(1e100 if sign > 0 else -5e99, rel=0.01)
            assert reward.slope_per_day is not None
            assert math.isfinite(reward.slope_per_day)
        await roll()


async def test_a_negative_zero_is_zero_in_every_figure(caller: Caller) -> None:
    await caller.record(
        {"model_id": "m", "timestamp": NOW.isoformat(), "metrics": {"latency": -0.0}}
    )
    latency = (await caller.monitor()).statistics["latency"].model_dump(exclude_none=True)
    assert "-0.0" not in map(str, latency.values())
    assert latency["minimum"] == 0.0
