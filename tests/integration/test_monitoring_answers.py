"""What is answered about a model, through the edge: statistics, plots, advice, alerts."""

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import altair as alt
import numpy as np
import plotly.graph_objects
import pytest
from scipy import stats

from common import bus
from common.contracts.monitoring import ALERT_RAISED, METRICS_RECORDED, AlertNews, MetricUpdate
from integration.caller import Account, error_of
from integration.load import wait_until
from integration.monitored import MANY, V2, MonitoredStack, at, monitor, record, record_many


@pytest.fixture(scope="module")
def stack() -> Iterator[MonitoredStack]:
    with MonitoredStack() as running:
        yield running


@pytest.fixture
def account(stack: MonitoredStack) -> Iterator[Account]:
    made = Account(stack.url)
    yield made
    made.http.close()


@pytest.fixture
def other(stack: MonitoredStack) -> Iterator[Account]:
    made = Account(stack.url)
    yield made
    made.http.close()


def trend_of(times: list[datetime], values: list[float]) -> tuple[str, float | None]:
    """By scipy, of hourly means; lower is taken to be better."""
    hours: dict[int, list[float]] = {}
    for time, value in zip(times, values, strict=True):
        hours.setdefault(int(time.timestamp() // 3_600), []).append(value)
    if len(hours) < 5:
        return "insufficient_data", None
    when, means = zip(*[(hour, np.mean(of)) for hour, of in sorted(hours.items())], strict=True)
    slope = stats.theilslopes(means, when).slope
    n, ties = len(means), np.unique(means, return_counts=True)[1]
    score = np.sign(np.subtract.outer(means, means))[np.tril_indices(n)].sum()
    variance = (n * (n - 1) * (2 * n + 5) - sum(t * (t - 1) * (2 * t + 5) for t in ties)) / 18
    z = (score - np.sign(score)) / np.sqrt(variance) if variance else 0.0
    if abs(z) <= stats.norm.ppf(0.975) or slope == 0:
        return "stable", slope * 24
    return ("improving" if slope < 0 else "degrading"), slope * 24


@pytest.mark.parametrize("count", [1, 2, 3, 40, 300, 4_000])
@pytest.mark.parametrize("kind", ["any", "ties", "rising"])
def test_statistics_are_those_of_numpy_and_all_plots_show_the_same(
    account: Account, count: int, kind: str
) -> None:
    random_ = np.random.default_rng(count)
    # In no order; ten minutes from the window's edges.
    minutes = random_.choice(np.arange(10, 30 * 1_440 - 10), count, replace=False)
    now = datetime.now(UTC)
    times = [now - timedelta(minutes=int(m)) for m in minutes]
    values = {
        "any": lambda: random_.normal(0, 1e3, count),
        "ties": lambda: random_.integers(0, 3, count).astype(float),
        "rising": lambda: 50 - minutes / 1_440 + random_.normal(size=count),
    }[kind]().tolist()
    records = [
        {"modelId": "m", "timestamp": time.isoformat(), "metrics": {"latency": value}}
        for time, value in zip(times, values, strict=True)
    ]
    assert record_many(account, records).status_code == 200
    asked = {
        style: monitor(account, plotFormat=style) for style in ("plotly", "vega-lite", "series")
    }
    latency = asked["series"]["statistics"]["latency"]
    trend, slope = trend_of(times, values)
    expected = {
        "count": count, "mean": np.mean(values), "total": np.sum(values),
        "p95": np.quantile(values, 0.95), "minimum": min(values), "maximum": max(values),
    }  # fmt: skip
    if slope is not None:
        expected["slopePerDay"] = slope
    for name, value in expected.items():
        assert latency[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    assert (latency["trend"], latency["exact"], latency["unit"]) == (trend, True, "ms")
    assert (latency["slopePerDay"] is None) == (slope is None)
    columns = asked["series"]["plots"]["latency"]["columns"]
    figure = asked["plotly"]["plots"]["latency"]
    plotly.graph_objects.Figure(figure)
    vega = asked["vega-lite"]["plots"]["latency"]
    alt.Chart.from_dict(vega, validate=True)
    assert figure["data"][-1]["x"] == columns["time"] == [p["time"] for p in vega["data"]["values"]]
    assert figure["data"][-1]["y"] == columns["mean"] == [p["mean"] for p in vega["data"]["values"]]
    assert max(columns["maximum"]) == max(values)
    assert min(columns["minimum"]) == min(values)


def test_a_window_with_nothing_in_it_is_nulls(account: Account) -> None:
    assert record(account, timestamp=at(days=40), metrics={"latency": 5.0}).status_code == 200
    data = monitor(account)
    for name in ("throughput", "latency", "costs"):
        found = data["statistics"][name]
        assert (found["count"], found["trend"]) == (0, "insufficient_data")
        assert {found[f] for f in ("mean", "p95", "total", "minimum", "slopePerDay")} == {None}
    assert (data["plots"], data["recommendations"]) == ({"latency": {}}, [])
    assert monitor(account, days=365)["statistics"]["latency"]["mean"] == 5.0


def test_recommendations_name_the_numbers_that_led_to_them(account: Account) -> None:
    records = [
        {
            "modelId": "m",
            "timestamp": at(hours=300 - n),
            "metrics": {
                "cost_per_inference": (1e-4 if n < 200 else 1.4e-4) * (1.02, 0.98)[n % 2],
                "gpu_memory_usage": 15_500.0,
                "gpu_memory_limit": 16_384.0,
                "batch_size": 1.0,
                "cost_per_inference_batch_1": 1.4e-4,
                "cost_per_inference_batch_8": 5e-5,
                "throughput": 100.0,
            },
        }
        for n in range(300)
    ]
    assert record_many(account, records).status_code == 200
    drift, memory, batch = monitor(account)["recommendations"]
    since = datetime.fromisoformat(records[200]["timestamp"])
    assert "higher" in drift
    assert f"since {since:%Y-%m-%d %H:00} UTC" in drift
    assert "$0.00014 on average, $0.0001 before" in drift
    assert "15,500 of 16,384 MiB (95%)" in memory
    assert batch.startswith("Batch size 8 would be 64% cheaper")
    assert "$5e-05" in batch
    assert "$0.00014" in batch


def test_the_rules_that_need_no_set_up_raise_and_recover(account: Account) -> None:
    def usual_then(metrics: dict[str, float], changed: dict[str, float]) -> list[dict[str, Any]]:
        """An hour with a record a minute, whose last six are others."""
        noise = random.Random(3)
        return [
            {
                "modelId": "m",
                "timestamp": at(minutes=60 - n),
                "metrics": {
                    name: value * noise.gauss(1, 0.02)
                    for name, value in (changed if n >= 54 else metrics).items()
                },
            }
            for n in range(60)
        ]

    well = {"throughput": 100.0, "latency": 40.0, "cost_per_inference": 1e-4, "memory_usage": 50.0}
    bad = {"throughput": 60.0, "latency": 100.0, "cost_per_inference": 1.4e-4, "memory_usage": 93.0}
    limit = {"modelId": "m", "timestamp": at(minutes=61), "metrics": {"memory_limit": 100.0}}
    # Every half minute, and not for 40 minutes.
    silent = [
        {"modelId": "silent", "timestamp": at(minutes=80 - n / 2), "metrics": {"latency": 1.0}}
        for n in range(80)
    ]
    assert record_many(account, [*silent, limit, *usual_then(well, bad)]).status_code == 200

    def alerts(*, over: bool) -> dict[tuple[str, str], str]:
        body = account.http.get("/v1/api/alerts", headers=account.headers).json()
        return {
            (alert["modelId"], alert["type"]): alert["severity"]
            for alert in body["data"]["alerts"]
            if (alert["recoveredAt"] is not None) == over
        }

    expected = {
        ("m", "latency_regression"): "critical",
        ("m", "throughput_regression"): "warning",
        ("m", "cost_drift"): "warning",
        ("m", "memory_near_limit"): "warning",
        ("silent", "silence"): "warning",
    }
    wait_until(lambda: alerts(over=False) == expected)
    again = [{"modelId": "m", "timestamp": at(seconds=n), "metrics": well} for n in range(6)]
    again.append({"modelId": "silent", "metrics": {"latency": 1.0}})
    assert record_many(account, again).status_code == 200
    wait_until(lambda: alerts(over=True) == expected)
    assert alerts(over=False) == {}


def test_an_alert_is_raised_once_by_two_replicas_and_heard(
    stack: MonitoredStack, account: Account
) -> None:
    rule = {"kind": "threshold", "metric": "latency", "above": 100.0, "severity": "critical"}
    made = account.post("/v1/api/alerts/rules", rule)
    assert made.status_code == 201
    rules = account.http.get("/v1/api/alerts/rules", headers=account.headers).json()["data"]
    assert made.json()["data"] in rules["rules"]

    async def listen() -> tuple[list[AlertNews], list[MetricUpdate]]:
        alerts: list[AlertNews] = []
        updates: list[MetricUpdate] = []

        async def hear_alert(news: AlertNews) -> None:
            alerts.append(news)

        async def hear_update(update: MetricUpdate) -> None:
            updates.append(update)

        async with bus.connect(stack.nats.url("realtime"), "realtime") as listener:
            mine = f"{bus.token(account.id)}.*"
            await listener.subscribe(ALERT_RAISED, hear_alert, filter=mine)
            await listener.subscribe(METRICS_RECORDED, hear_update, filter=mine)
            await listener.flush()
            for value in (50.0, *[150.0] * 20):
                answer = await asyncio.to_thread(record, account, metrics={"latency": value})
                assert answer.status_code == 200
            await asyncio.to_thread(wait_until, lambda: alerts and len(updates) >= 21)
            await asyncio.to_thread(record, account, metrics={"latency": 50.0})
            await asyncio.to_thread(wait_until, lambda: len(alerts) >= 2)
        return alerts, updates

    heard, updates = asyncio.run(listen())
    assert [(alert.type, alert.severity) for alert in heard] == [
        ("latency_threshold", "critical"),
        ("latency_threshold_recovered", "info"),
    ]
    assert {update.metrics["latency"] for update in updates} <= {50.0, 150.0}
    stored = account.http.get("/v1/api/alerts?modelId=m", headers=account.headers).json()["data"]
    [alert] = stored["alerts"]
    assert alert["id"] == heard[0].id
    assert alert["recoveredAt"] is not None
    id = made.json()["data"]["id"]
    assert account.http.delete(
        f"/v1/api/alerts/rules/{id}", headers=account.headers
    ).status_code == 204  # fmt: skip
    for query in ("limit=0", "limit=x", "openOnly=maybe"):
        answer = account.http.get(f"/v1/api/alerts?{query}", headers=account.headers)
        assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)


def test_slower_than_usual_is_noticed_without_set_up_and_recommended_about(
    account: Account,
) -> None:
    noise = random.Random(1)
    values = [40 * noise.gauss(1, 0.05) for _ in range(200)]
    values += [60 * noise.gauss(1, 0.05) for _ in range(60)]
    records = [
        {"modelId": "m", "timestamp": at(hours=len(values) - n - 1), "metrics": {"latency": value}}
        for n, value in enumerate(values)
    ]
    assert record_many(account, records[:200]).status_code == 200
    assert record_many(account, records[200:]).status_code == 200
    data = monitor(account)
    assert data["statistics"]["latency"]["trend"] == "degrading"
    [sentence] = data["recommendations"]
    since = datetime.fromisoformat(records[200]["timestamp"])
    assert f"{since:%Y-%m-%d %H:00}" in sentence
    recent = [
        {"modelId": "n", "timestamp": at(minutes=66 - n), "metrics": {"latency": v}}
        for n, v in enumerate([40.0, 41.0, 39.0] * 20 + [90.0] * 6)
    ]
    assert record_many(account, recent).status_code == 200

    def alerts() -> list[dict[str, Any]]:
        answer = account.http.get("/v1/api/alerts?modelId=n", headers=account.headers)
        found: list[dict[str, Any]] = answer.json()["data"]["alerts"]
        return found

    wait_until(lambda: bool(alerts()))
    assert [alert["type"] for alert in alerts()] == ["latency_regression"]


def test_alerts_of_two_accounts_do_not_mix(account: Account, other: Account) -> None:
    rule = {"kind": "threshold", "metric": "latency", "above": 1.0}
    account.post("/v1/api/alerts/rules", rule)
    for who in (account, other):
        assert record(who, metrics={"latency": 5.0}).status_code == 200

    def alerts(who: Account) -> list[Any]:
        body = who.http.get("/v1/api/alerts", headers=who.headers).json()
        found: list[Any] = body["data"]["alerts"]
        return found

    wait_until(lambda: bool(alerts(account)))
    assert alerts(other) == []


def test_two_hundred_thousand_samples_are_summarised_within_one_per_cent(
    stack: MonitoredStack, account: Account
) -> None:

    random_ = np.random.default_rng(7)
    start = datetime.now(UTC) - timedelta(days=20)
    chunks = []

    for call in range(20):
        values = random_.lognormal(2, 0.7, 10_000)
        chunks.append(values)
        records = [
            {
                "modelId": "m",
                "timestamp": (start + timedelta(seconds=(call * 10_000 + n) * 8)).isoformat(),
                "metrics": {"latency": value},
            }
            for n, value in enumerate(values.tolist())
        ]
        body = json.dumps({"records": records}).encode()
        headers = {**account.headers, **V2, "Content-Type": "application/json"}
        answer = account.http.post(MANY, content=body, headers=headers)
        assert answer.status_code == 200, answer.text
    values = np.concatenate(chunks)
    for _ in range(2):  # before it is rolled up, and after
        latency = monitor(account)["statistics"]["latency"]
        assert latency["count"] == len(values)
        assert latency["mean"] == pytest.approx(values.mean(), rel=1e-9)
        assert latency["total"] == pytest.approx(values.sum(), rel=1e-9)
        assert latency["p95"] == pytest.approx(np.quantile(values, 0.95), rel=0.01)
        assert (latency["minimum"], latency["maximum"]) == (values.min(), values.max())
        wait_until(lambda: not stack.query("select from stale limit 1"))
