"""Metrics through the edge: recorded, committed, summarised, watched."""

import asyncio
import json
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import numpy as np
import plotly.graph_objects
import pytest

from common import bus
from common.contracts.monitoring import ALERT_RAISED, METRICS_RECORDED, AlertNews, MetricUpdate
from integration.caller import Account, error_of
from integration.load import wait_until
from integration.monitored import MonitoredStack

V2 = {"X-Lilypad-Beta": "v2"}
MANY = "/v2/api/monitor/record"


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


def at(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat()


def record(account: Account, **body: Any) -> httpx2.Response:
    body.setdefault("modelId", "m")
    return account.post("/v1/api/monitor/record", body)


def record_many(account: Account, records: list[dict[str, Any]]) -> httpx2.Response:
    return account.post(MANY, {"records": records}, headers=V2)


def monitor(account: Account, model: str = "m", **body: Any) -> dict[str, Any]:
    answer = account.post("/v1/api/monitor", {"modelId": model, **body})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def test_the_references_own_example_works(account: Account) -> None:
    body = {
        "modelId": "m",
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "metrics": {
            "throughput": 120.5,
            "latency": 8,
            "memory_usage": 2048.0,
            "gpu_memory_usage": 8192.0,
            "cost_per_inference": 0.00012,
        },
    }
    answer = account.post("/api/monitor/record", body)
    assert (answer.status_code, answer.json()["data"]) == (200, {"status": "success"})
    asked = {"modelId": "m", "days": 30, "metrics": ["throughput", "latency"]}
    data = account.post("/api/monitor", asked).json()["data"]
    assert data["statistics"]["throughput"]["mean"] == 120.5
    assert data["statistics"]["latency"]["p95"] == 8.0
    assert data["statistics"]["costs"]["total"] == 0.00012
    assert data["statistics"]["costs"]["trend"] == "insufficient_data"
    assert set(data["plots"]) == {"throughput", "latency"}
    assert data["recommendations"] == []
    for figure in data["plots"].values():
        plotly.graph_objects.Figure(figure)


def test_each_answered_record_is_in_the_next_answer_whichever_replicas_serve(
    account: Account,
) -> None:
    for count in range(1, 40):
        assert record(account, metrics={"latency": 1.0}).status_code == 200
        assert monitor(account)["statistics"]["latency"]["count"] == count


def test_ten_thousand_records_in_a_call_are_stored_all_or_none(account: Account) -> None:
    values = np.random.default_rng(1).lognormal(3, 1, (10_000, 5))
    names = ("throughput", "latency", "memory_usage", "gpu_memory_usage", "cost_per_inference")
    records = [
        {"modelId": "m", "timestamp": at(minutes=n), "metrics": dict(zip(names, row, strict=True))}
        for n, row in enumerate(values.tolist())
    ]
    wrong = [*records[:-1], {**records[-1], "timestamp": "yesterday"}]
    answer = record_many(account, wrong)
    assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)
    assert error_of(answer)["details"]["fields"][0]["path"] == "records.9999.timestamp"
    assert account.post("/v1/api/monitor", {"modelId": "m"}).status_code == 404, "nothing stored"
    for _ in range(2):  # at least once, and counted once
        assert record_many(account, records).status_code == 200
    data = monitor(account, plotFormat="series")
    latency = data["statistics"]["latency"]
    assert latency["count"] == 10_000
    assert latency["mean"] == pytest.approx(values[:, 1].mean(), rel=1e-9)
    assert latency["p95"] == pytest.approx(np.quantile(values[:, 1], 0.95), rel=0.01)
    assert not latency["exact"]
    plot = data["plots"]["latency"]
    assert (plot["pointsIn"], plot["unit"]) == (10_000, "ms")
    assert plot["pointsOut"] == len(plot["columns"]["time"]) <= 500
    assert max(plot["columns"]["maximum"]) == values[:, 1].max()


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({"metrics": {"latency": 1}}, "modelId"),
        ({"modelId": "", "metrics": {"latency": 1}}, "modelId"),
        ({"modelId": "m" * 257, "metrics": {"latency": 1}}, "modelId"),
        ({"modelId": "m\n", "metrics": {"latency": 1}}, "modelId"),
        ({"modelId": "m", "metrics": {}}, "metrics"),
        ({"modelId": "m", "metrics": {"latency": "secret"}}, "metrics.latency"),
        ({"modelId": "m", "metrics": {"latency": True}}, "metrics.latency"),
        ({"modelId": "m", "metrics": {"latency": None}}, "metrics.latency"),
        ({"modelId": "m", "metrics": {"Latency": 1}}, "metrics.Latency.[key]"),
        ({"modelId": "m", "metrics": {f"x{n}": 1 for n in range(65)}}, "metrics"),
        ({"modelId": "m", "metrics": {"latency": 1}, "tags": {}}, "tags"),
        *(
            ({"modelId": "m", "timestamp": time, "metrics": {"latency": 1}}, "timestamp")
            for time in (
                "secret", "1999-12-31T23:59:59Z", "2026-13-01T00:00:00Z", "2026-01-01",
                "2026-01-01T00:00:00", "1767225600", 1767225600, "9999-12-31T23:59:59Z", "",
                (datetime.now(UTC) + timedelta(days=2)).isoformat(),
            )
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused_by_name(
    account: Account, body: dict[str, Any], path: str
) -> None:
    for answer in (account.post("/v1/api/monitor/record", body), record_many(account, [body])):
        assert answer.status_code == 400, answer.text
        error = error_of(answer)
        assert error["code"] == 1003
        found = error["details"]["fields"][0]
        assert found["path"].removeprefix("records.0.") == path
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    "text",
    ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5_000],
)
def test_numbers_that_are_not_finite_are_refused(account: Account, text: str) -> None:
    headers = {**account.headers, "Content-Type": "application/json"}
    content = '{"modelId": "m", "metrics": {"latency": ' + text + "}}"
    answer = account.http.post("/v1/api/monitor/record", content=content, headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)


def test_the_limits_of_size_are_named(account: Account) -> None:
    def one(n: int, names: int = 1) -> dict[str, Any]:
        metrics = {f"metric_{name}": 1.0 for name in range(names)}
        return {"modelId": "m", "timestamp": at(seconds=n), "metrics": metrics}

    answer = record_many(account, [one(n) for n in range(10_001)])
    assert answer.status_code == 400
    assert "10000" in error_of(answer)["message"]
    answer = record_many(account, [one(n, 10) for n in range(5_001)])
    assert answer.status_code == 400
    assert error_of(answer)["details"]["limit"] == 50_000
    for days in (0, 366, 1.5, "30"):
        answer = account.post("/v1/api/monitor", {"modelId": "m", "days": days})
        assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)
    long = {"modelId": "m", "metrics": {"x" * 900_000: 1.0}}
    answer = account.post("/v1/api/monitor/record", long)
    assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)
    assert len(answer.text) < 2_000, "what was submitted is not echoed"


def test_labels_without_end_are_refused_with_the_cap(account: Account, other: Account) -> None:
    assert record(account, metrics={"latency": 1.0}).status_code == 200
    for batch in range(11):
        records = [{"modelId": f"m{batch}-{n}", "metrics": {"latency": 1.0}} for n in range(1_000)]
        answer = record_many(account, records)
        if answer.status_code != 200:
            break
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["details"]) == (400, 1003, {"limit": 10_000})
    assert record(account, metrics={"latency": 1.0}).status_code == 200, "known series go on"
    assert record(other, metrics={"latency": 1.0}).status_code == 200, "others do not notice"


def test_a_record_sent_again_with_its_key_counts_once(account: Account) -> None:
    """It has no time of its own to be known again by."""
    body = {"modelId": "m", "metrics": {"latency": 1.0}}
    for path, sent, count in (
        ("/v1/api/monitor/record", body, 1),
        (MANY, {"records": [body, body]}, 3),
    ):
        headers = {**V2, "Idempotency-Key": f"a key for {path}"}
        first, again = (account.post(path, sent, headers=headers) for _ in range(2))
        assert (first.status_code, first.text) == (again.status_code, again.text)
        assert again.headers["Idempotent-Replayed"] == "true"
        assert monitor(account)["statistics"]["latency"]["count"] == count
        other = json.loads(json.dumps(sent).replace("1.0", "2.0"))
        answer = account.post(path, other, headers=headers)
        assert (answer.status_code, error_of(answer)["code"]) == (422, 3002)


def test_somebody_elses_model_is_as_if_it_did_not_exist(account: Account, other: Account) -> None:
    assert record(account, modelId="mine", metrics={"latency": 1.0}).status_code == 200
    answers = []
    for model in ("mine", "no such model"):
        answer = other.post("/v1/api/monitor", {"modelId": model})
        assert answer.status_code == 404
        answers.append((error_of(answer), sorted(answer.headers)))
    assert answers[0] == answers[1]
    rule = account.post(
        "/v1/api/alerts/rules", {"kind": "threshold", "metric": "latency", "above": 1e9}
    ).json()["data"]
    for id in (rule["id"], "rule_nothing"):
        answer = other.http.delete(f"/v1/api/alerts/rules/{id}", headers=other.headers)
        assert (answer.status_code, error_of(answer)["code"]) == (404, 3001)


def test_keys_that_may_only_read_or_only_write(account: Account) -> None:
    keys = {
        scope: {"Authorization": f"Bearer {account.make_key(scope, scopes=[scope])['key']}"}
        for scope in ("monitor:read", "monitor:write")
    }
    body = {"modelId": "m", "metrics": {"latency": 1.0}}
    for scope, recording, asking in (("monitor:write", 200, 403), ("monitor:read", 403, 200)):
        for path, sent, status in (
            ("/v1/api/monitor/record", body, recording),
            ("/v1/api/monitor", {"modelId": "m"}, asking),
        ):
            answer = account.http.post(path, json=sent, headers=keys[scope])
            assert answer.status_code == status
    assert account.post(MANY, {"records": [body]}).status_code == 403, "v2 is opted in to"


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
            await listener.client.flush()
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
