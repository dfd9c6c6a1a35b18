"""Metrics through the edge: recorded, committed, summarised, watched."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import plotly.graph_objects
import pytest

from integration.caller import Account, error_of
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
    ["NaN", "Infinity", "-Infinity", "1e999", "-1.1e100", "9" * 5_000],
)
def test_numbers_that_nothing_measures_are_refused(account: Account, text: str) -> None:
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
    long = {"modelId": "m", "metrics": {"x" * 90_000: 1.0}}
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
