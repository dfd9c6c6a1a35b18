"""Answers about a model, through the edge: statistics, plots, advice, alerts."""

import asyncio
import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import altair as alt
import numpy as np
import plotly.graph_objects
import pytest
from scipy import stats

from common import bus
from common.contracts.alerts import ALERT_RAISED, AlertEvent
from common.contracts.history import METRICS_RECORDED, MetricUpdate
from integration.caller import Account, error_of
from integration.load import wait_until
from integration.monitored import MonitoredStack, at, monitor, record, record_many


@pytest.fixture(scope="module")
def stack(monitored_stack: MonitoredStack) -> MonitoredStack:
    return monitored_stack


def slope_of(times: list[datetime], values: list[float]) -> float | None:
    """Return scipy's slope per day through the means of at most 120 spans of whole hours."""
    hours: dict[int, list[float]] = {}
    for time, value in zip(times, values, strict=True):
        hours.setdefault(int(time.timestamp() // 3_600), []).append(value)
    if len(hours) < 5:
        return None
    many = -(-len(hours) // 120)
    ordered = sorted(hours.items())
    stretches = [ordered[n : n + many] for n in range(0, len(ordered), many)]
    when = [np.mean([hour for hour, _ in stretch]) for stretch in stretches]
    means = [np.mean([value for _, hour in stretch for value in hour]) for stretch in stretches]
    slope: float = stats.theilslopes(means, when).slope * 24
    return slope


@pytest.mark.parametrize("count", [1, 2, 3, 40, 300, 4_000])
@pytest.mark.parametrize("kind", ["any", "ties", "rising"])
def test_statistics_are_those_of_numpy_and_all_plots_show_the_same(
    account: Account, count: int, kind: str
) -> None:
    random_ = np.random.default_rng(count)
    # In random order; ten minutes from the window's edges.
    minutes = random_.choice(np.arange(10, 30 * 1_440 - 10), count, replace=False)
    now = datetime.now(UTC)
    times = [now - timedelta(minutes=int(m)) for m in minutes]
    values = {
        "any": lambda: random_.lognormal(5, 2, count),
        "ties": lambda: random_.integers(0, 3, count).astype(float),
        "rising": lambda: 50 - minutes / 1_440 + random_.normal(size=count),
    }[kind]().tolist()
    records = [
        {"modelId": "m", "timestamp": time.isoformat(), "metrics": {"latency": value}}
        for time, value in zip(times, values, strict=True)
    ]
    assert record_many(account, records).status_code == 200
    request = {
        style: monitor(account, plotFormat=style) for style in ("plotly", "vega-lite", "series")
    }
    latency = request["series"]["statistics"]["latency"]
    slope = slope_of(times, values)
    trend = "insufficient_data" if slope is None else "degrading" if kind == "rising" else "stable"
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
    columns = request["series"]["plots"]["latency"]["columns"]
    figure = request["plotly"]["plots"]["latency"]
    plotly.graph_objects.Figure(figure)
    vega = request["vega-lite"]["plots"]["latency"]
    alt.Chart.from_dict(vega, validate=True)
    assert figure["data"][-1]["x"] == columns["time"] == [p["time"] for p in vega["data"]["values"]]
    assert figure["data"][-1]["y"] == columns["mean"] == [p["mean"] for p in vega["data"]["values"]]
    assert max(columns["maximum"]) == max(values)
    assert min(columns["minimum"]) == min(values)


def test_a_window_without_samples_has_null_figures(account: Account) -> None:
    assert record(account, timestamp=at(days=40), metrics={"latency": 5.0}).status_code == 200
    data = monitor(account)
    for name in ("throughput", "latency", "costs"):
        statistics = data["statistics"][name]
        assert (statistics["count"], statistics["trend"]) == (0, "insufficient_data")
        assert {statistics[f] for f in ("mean", "p95", "total", "minimum", "slopePerDay")} == {None}
    assert (data["plots"], data["recommendations"]) == ({"latency": {}}, [])
    assert monitor(account, days=365)["statistics"]["latency"]["mean"] == 5.0


def test_recommendations_name_the_numbers_behind_them(account: Account) -> None:
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
    assert f"since {since:%A} {since.day} {since:%B}, {since:%H:%M} UTC" in drift
    assert "$0.00014 on average, $0.0001 before" in drift
    assert "15,500 of 16,384 MiB (95 %)" in memory
    assert batch.startswith("Batch size 8 would be 64 % cheaper")
    assert "$5e-05" in batch
    assert "$0.00014" in batch


def recorded(account: Account, value: Any, metric: str = "latency", days: int = 7) -> Any:
    """Record days of a metric, four samples an hour; return the answer of `/monitor`.

    `value` returns the level of each hour, counted back from now.
    """
    noise = random.Random(7)
    records = [
        {
            "modelId": "m",
            "timestamp": at(minutes=15 * n + 1),
            "metrics": {metric: value(n / 4) * noise.gauss(1, 0.03)},
        }
        for n in range(days * 96)
    ]
    assert record_many(account, records).status_code == 200
    return monitor(account, days=days)


def in_the_week(hours: int, ago: int) -> int:
    """Return `ago`, plus as many days as keep the hours before it off weekends.

    With one weekend only, what happens on it may be what happens on each.
    """
    now = datetime.now(UTC)
    while any((now - timedelta(hours=ago + hour)).weekday() >= 5 for hour in range(hours + 1)):
        ago += 24
    return ago


def test_an_incident_that_passed_is_reported_as_passed(account: Account) -> None:
    end = in_the_week(26, ago=14)
    data = recorded(account, lambda ago: 90.0 if end <= ago < end + 26 else 40.0)
    [sentence], [finding] = data["recommendations"], data["findings"]
    assert "higher for 26 hours, from" in sentence
    assert "It has been normal since." in sentence
    assert (finding["kind"], finding["metric"], finding["unit"]) == ("incident", "latency", "ms")
    length = datetime.fromisoformat(finding["end"]) - datetime.fromisoformat(finding["begin"])
    assert abs(length - timedelta(hours=26)) <= timedelta(minutes=30)
    assert finding["size"] == pytest.approx(50, rel=0.05)
    assert data["statistics"]["latency"]["trend"] == "stable"
    [mark] = data["plots"]["latency"]["layout"]["shapes"]
    assert datetime.fromisoformat(mark["x0"]) == datetime.fromisoformat(finding["begin"])
    assert datetime.fromisoformat(mark["x1"]) == datetime.fromisoformat(finding["end"])


def test_an_incident_in_mid_week_is_named_with_start_and_end(account: Account) -> None:
    end = in_the_week(14, ago=70)
    data = recorded(account, lambda ago: 110.0 if end <= ago < end + 14 else 40.0)
    [sentence] = data["recommendations"]
    assert "higher for 14 hours, from" in sentence
    assert "usually 40" in sentence
    assert [finding["kind"] for finding in data["findings"]] == ["incident"]


def test_a_weekend_like_the_previous_one_is_not_reported_as_a_change(account: Account) -> None:
    def throughput(ago: float) -> float:
        return 56.0 if (datetime.now(UTC) - timedelta(hours=ago)).weekday() >= 5 else 100.0

    data = recorded(account, throughput, "throughput", days=16)
    assert (data["recommendations"], data["findings"]) == ([], [])
    assert data["statistics"]["throughput"]["trend"] == "stable"


def test_a_leak_is_reported_per_day_with_the_day_it_reaches_the_limit(account: Account) -> None:
    limit = {"modelId": "m", "timestamp": at(hours=1), "metrics": {"memory_limit": 9_000.0}}
    assert record_many(account, [limit]).status_code == 200
    data = recorded(account, lambda ago: 6_000.0 - 12 * ago, "memory_usage")
    [sentence] = data["recommendations"]
    assert re.match(r"Memory grows by 2[89]\d MiB a day", sentence)
    assert "it reaches its limit of 9,000 MiB on" in sentence
    [finding] = data["findings"]
    assert (finding["kind"], finding["end"], finding["unit"]) == ("slope", None, "MiB/day")
    assert finding["size"] == pytest.approx(288, rel=0.05)


def test_a_lasting_regression_is_reported_with_its_start(account: Account) -> None:
    data = recorded(account, lambda ago: 60.0 if ago < 50 else 40.0)
    [sentence], [finding] = data["recommendations"], data["findings"]
    assert re.match("Latency has been (49|50|51) % higher since", sentence)
    begin = datetime.fromisoformat(finding["begin"])
    assert abs(datetime.now(UTC) - begin - timedelta(hours=50)) < timedelta(minutes=31)
    assert (finding["kind"], finding["end"]) == ("step", None)
    assert data["statistics"]["latency"]["trend"] == "degrading"


def test_the_default_rules_raise_and_recover_alerts(account: Account) -> None:
    def usual_then(metrics: dict[str, float], changed: dict[str, float]) -> list[dict[str, Any]]:
        """Return an hour of records, one a minute; the last six have the `changed` values."""
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
    # Every half minute, but none in the last 40 minutes.
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


def test_an_alert_is_raised_once_by_two_replicas_and_received(
    stack: MonitoredStack, account: Account
) -> None:
    rule = {"kind": "threshold", "metric": "latency", "above": 100.0, "severity": "critical"}
    rule_added = account.post("/v1/api/alerts/rules", rule)
    assert rule_added.status_code == 201
    rules = account.http.get("/v1/api/alerts/rules", headers=account.headers).json()["data"]
    assert rule_added.json()["data"] in rules["rules"]

    async def listen() -> tuple[list[AlertEvent], list[MetricUpdate]]:
        alerts: list[AlertEvent] = []
        updates: list[MetricUpdate] = []

        async def hear_alert(news: AlertEvent) -> None:
            alerts.append(news)

        async def hear_update(update: MetricUpdate) -> None:
            updates.append(update)

        async with bus.connect(stack.nats.url("realtime"), "realtime") as listener:
            filter = f"{bus.token(account.id)}.*"
            await listener.subscribe(ALERT_RAISED, hear_alert, filter=filter)
            await listener.subscribe(METRICS_RECORDED, hear_update, filter=filter)
            await listener.flush()
            for value in (50.0, *[150.0] * 20):
                answer = await asyncio.to_thread(record, account, metrics={"latency": value})
                assert answer.status_code == 200
            await asyncio.to_thread(wait_until, lambda: alerts and len(updates) >= 21)
            await asyncio.to_thread(record, account, metrics={"latency": 50.0})
            await asyncio.to_thread(wait_until, lambda: len(alerts) >= 2)
        return alerts, updates

    events, updates = asyncio.run(listen())
    assert [(alert.type, alert.severity) for alert in events] == [
        ("latency_threshold", "critical"),
        ("latency_threshold_recovered", "info"),
    ]
    assert {update.metrics["latency"] for update in updates} <= {50.0, 150.0}
    stored = account.http.get("/v1/api/alerts?modelId=m", headers=account.headers).json()["data"]
    [alert] = stored["alerts"]
    assert alert["id"] == events[0].id
    assert alert["recoveredAt"] is not None
    id = rule_added.json()["data"]["id"]
    assert alert["ruleId"] == id
    muted = account.http.patch(
        f"/v1/api/alerts/rules/{id}", headers=account.headers, json={"muted": True, "above": 90}
    )
    assert muted.json()["data"] == {**rule_added.json()["data"], "muted": True, "above": 90.0}
    assert account.http.delete(
        f"/v1/api/alerts/rules/{id}", headers=account.headers
    ).status_code == 204  # fmt: skip
    change = {"muted": True, "forMinutes": 10, "percent": 30}
    default = account.http.patch(
        "/v1/api/alerts/rules/latency", headers=account.headers, json=change
    ).json()["data"]
    assert {name: default[name] for name in change} == change
    for query in ("limit=0", "limit=x", "openOnly=maybe"):
        answer = account.http.get(f"/v1/api/alerts?{query}", headers=account.headers)
        assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)


def test_a_slowdown_raises_an_alert_and_a_recommendation_without_set_up(
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
    assert f"{since.day} {since:%B}, {since:%H:%M} UTC" in sentence
    recent = [
        {"modelId": "n", "timestamp": at(minutes=66 - n), "metrics": {"latency": v}}
        for n, v in enumerate([40.0, 41.0, 39.0] * 20 + [90.0] * 6)
    ]
    assert record_many(account, recent).status_code == 200

    def alerts() -> list[dict[str, Any]]:
        answer = account.http.get("/v1/api/alerts?modelId=n", headers=account.headers)
        raised: list[dict[str, Any]] = answer.json()["data"]["alerts"]
        return raised

    wait_until(lambda: bool(alerts()))
    assert [alert["type"] for alert in alerts()] == ["latency_regression"]


def test_alerts_of_two_accounts_do_not_mix(account: Account, other: Account) -> None:
    rule = {"kind": "threshold", "metric": "latency", "above": 1.0}
    account.post("/v1/api/alerts/rules", rule)
    for who in (account, other):
        assert record(who, metrics={"latency": 5.0}).status_code == 200

    def alerts(who: Account) -> list[Any]:
        body = who.http.get("/v1/api/alerts", headers=who.headers).json()
        raised: list[Any] = body["data"]["alerts"]
        return raised

    wait_until(lambda: bool(alerts(account)))
    assert alerts(other) == []
