"""Metrics through the edge: recording, limits, summaries, deletion."""

import json
from datetime import UTC, datetime, timedelta
from time import sleep
from typing import Any
from urllib.parse import quote

import httpx2
import numpy as np
import plotly.graph_objects
import pytest

from integration import external_database
from integration.caller import Account, error_of
from integration.load import wait_until
from integration.monitored import MANY, V2, MonitoredStack, at, monitor, record, record_many


@pytest.fixture(scope="module")
def stack(monitored_stack: MonitoredStack) -> MonitoredStack:
    return monitored_stack


def test_the_record_example_of_the_reference_is_accepted(account: Account) -> None:
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
    again = account.post("/api/monitor/record", body).json()["data"]
    assert again == {"status": "success", "duplicates": 5}
    request = {"modelId": "m", "days": 30, "metrics": ["throughput", "latency"]}
    data = account.post("/api/monitor", request).json()["data"]
    assert data["statistics"]["throughput"]["mean"] == 120.5
    assert data["statistics"]["latency"]["p95"] == 8.0
    assert data["statistics"]["costs"]["total"] == 0.00012
    assert data["statistics"]["costs"]["trend"] == "insufficient_data"
    assert set(data["plots"]) == {"throughput", "latency"}
    assert data["recommendations"] == []
    for figure in data["plots"].values():
        plotly.graph_objects.Figure(figure)


def test_each_acknowledged_record_is_in_the_next_answer_whichever_replicas_serve(
    account: Account,
) -> None:
    for count in range(1, 40):
        assert record(account, metrics={"latency": 1.0}).status_code == 200
        assert monitor(account)["statistics"]["latency"]["count"] == count


def test_a_custom_metric_is_described_with_its_records(account: Account) -> None:
    body: dict[str, Any] = {
        "records": [{"modelId": "m", "metrics": {"wait": 3.0}}],
        "descriptions": {"wait": {"kind": "share", "unit": "parts", "moreIsBetter": True}},
    }
    for name, path in (("latency", "descriptions"), ("Wait", "descriptions.Wait")):
        wrong = {**body, "descriptions": {name: {}}}
        answer = account.post(MANY, wrong, headers=V2)
        assert error_of(answer)["details"]["fields"][0]["path"].startswith(path)
    answer = account.post(MANY, body, headers=V2)
    assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)
    assert error_of(answer)["details"]["fields"][0]["path"] == "wait"
    assert "a share and cannot exceed 1" in error_of(answer)["message"]
    body["records"][0]["metrics"]["wait"] = 0.3
    assert account.post(MANY, body, headers=V2).status_code == 200
    assert monitor(account, metrics=["wait"])["statistics"]["wait"]["unit"] == "parts"


def test_every_replica_soon_applies_a_changed_metric_description(account: Account) -> None:
    def statuses(value: float) -> set[int]:
        return {record(account, metrics={"wait": value}).status_code for _ in range(20)}

    body: dict[str, Any] = {"records": [{"modelId": "m", "metrics": {"wait": 0.5}}]}
    for kind, expected in (("any", 200), ("amount", 400), ("any", 200), ("share", 400)):
        described = {**body, "descriptions": {"wait": {"kind": kind}}}
        assert account.post(MANY, described, headers=V2).status_code == 200
        # An event may be a few milliseconds behind the answer; a cache lasts for ten minutes.
        wait_until(lambda expected=expected: statuses(-1.0) == {expected})


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200f", "\x9b", "\u2028", "\n"])
def test_names_and_units_cannot_reverse_the_text_around_them(
    account: Account, character: str
) -> None:
    answer = record(account, modelId=f"m{character}n", metrics={"wait": 1.0})
    assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)
    assert error_of(answer)["details"]["fields"][0]["path"] == "modelId"
    # One that was recorded before this was refused is still found.
    found = account.post("/v1/api/monitor", {"modelId": f"m{character}n"}).status_code
    assert found == (400 if character == "\n" else 404)
    body = {"records": [{"modelId": "m", "metrics": {"wait": 1.0}}]}
    for unit in (f"to{character}ks", character):
        described = {**body, "descriptions": {"wait": {"unit": unit}}}
        answer = account.post(MANY, described, headers=V2)
        assert answer.status_code == 400, unit
        assert error_of(answer)["details"]["fields"][0]["path"] == "descriptions.wait.unit"
    described = {**body, "descriptions": {"wait": {"unit": "\u00b5g/m\u00b3 \u05d0"}}}
    assert account.post(MANY, described, headers=V2).status_code == 200


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
        ({"modelId": "m\nn", "metrics": {"latency": 1}}, "modelId"),
        ({"modelId": "m", "metrics": {}}, "metrics"),
        ({"modelId": "m", "metrics": {"latency": "secret"}}, "metrics.latency"),
        ({"modelId": "m", "metrics": {"latency": True}}, "metrics.latency"),
        ({"modelId": "m", "metrics": {"latency": None}}, "metrics.latency"),
        ({"modelId": "m", "metrics": {"Latency": 1}}, "metrics.Latency"),
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
def test_impossible_values_are_refused_by_field_name(
    account: Account, body: dict[str, Any], path: str
) -> None:
    for answer in (account.post("/v1/api/monitor/record", body), record_many(account, [body])):
        assert answer.status_code == 400, answer.text
        error = error_of(answer)
        assert error["code"] == 1003
        fault = error["details"]["fields"][0]
        assert fault["path"].removeprefix("records.0.") == path
        assert "secret" not in answer.text


@pytest.mark.parametrize(
    "text",
    ["NaN", "Infinity", "-Infinity", "1e999", "-1.1e100", "9" * 5_000],
)
def test_impossible_metric_values_are_refused(account: Account, text: str) -> None:
    headers = {**account.headers, "Content-Type": "application/json"}
    content = '{"modelId": "m", "metrics": {"latency": ' + text + "}}"
    answer = account.http.post("/v1/api/monitor/record", content=content, headers=headers)
    assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)


def test_the_size_limits_are_named_in_refusals(account: Account) -> None:
    def record_of(n: int, names: int = 1) -> dict[str, Any]:
        metrics = {f"metric_{name}": 1.0 for name in range(names)}
        return {"modelId": "m", "timestamp": at(seconds=n), "metrics": metrics}

    answer = record_many(account, [record_of(n) for n in range(10_001)])
    assert answer.status_code == 400
    assert "10,000" in error_of(answer)["message"]
    answer = record_many(account, [record_of(n, 10) for n in range(5_001)])
    assert answer.status_code == 400
    assert error_of(answer)["details"]["limit"] == 50_000
    for days in (0, 366, 1.5, "30"):
        answer = account.post("/v1/api/monitor", {"modelId": "m", "days": days})
        assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)
    long = {"modelId": "m", "metrics": {"x" * 90_000: 1.0}}
    answer = account.post("/v1/api/monitor/record", long)
    assert (answer.status_code, error_of(answer)["code"]) == (400, 1003)
    assert len(answer.text) < 2_000, "what was submitted is not echoed"


def test_series_beyond_an_accounts_limit_are_refused_and_the_limit_is_named(
    account: Account, other: Account
) -> None:
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


def test_a_record_repeated_with_its_idempotency_key_counts_once(account: Account) -> None:
    """The record has no timestamp that could identify it."""
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


def test_another_accounts_model_looks_missing(account: Account, other: Account) -> None:
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


def test_a_key_can_be_limited_to_reading_or_to_recording_metrics(account: Account) -> None:
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


def test_a_hundred_thousand_samples_are_summarised_within_one_per_cent(
    stack: MonitoredStack, account: Account
) -> None:

    random_ = np.random.default_rng(7)
    start = datetime.now(UTC) - timedelta(days=20)
    chunks = []

    for call in range(10):
        values = random_.lognormal(2, 0.7, 10_000)
        chunks.append(values)
        records = [
            {
                "modelId": "m",
                "timestamp": (start + timedelta(seconds=(call * 10_000 + n) * 16)).isoformat(),
                "metrics": {"latency": value},
            }
            for n, value in enumerate(values.tolist())
        ]
        body = json.dumps({"records": records}).encode()
        headers = {**account.headers, **V2, "Content-Type": "application/json"}
        headers["Idempotency-Key"] = f"call {call}"
        # A database that is busy, as on a very slow machine, accepts a repeated request.
        while (answer := account.http.post(MANY, content=body, headers=headers)).status_code == 503:
            sleep(1)
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


def test_models_are_listed_page_by_page_the_newest_first(account: Account) -> None:
    for model in ("a", "b", "c"):
        record(account, modelId=model, metrics={"latency": 1.0, "throughput": 2.0})
    listed, query = [], ""
    while query is not None:
        answer = account.http.get(f"/v1/api/models?limit=2{query}", headers=account.headers)
        page = answer.json()["data"]
        listed += page["models"]
        query = f"&before={page['next']}" if page["next"] else None
    assert [model["modelId"] for model in listed] == ["c", "b", "a"]
    assert listed[0]["metrics"] == ["latency", "throughput"]


def test_the_address_of_a_model_names_the_same_model_as_its_id(account: Account) -> None:
    names = [
        "openai/gpt2",
        "https://huggingface.co/openai/gpt2/",
        "https://hf.co//openai/gpt2/tree/main/?library=x#y",
        " openai/gpt2/\u00a0",
    ]
    for number, name in enumerate(names, 1):
        stored = record(account, modelId=name, timestamp=at(minutes=number), metrics={"latency": 1})
        assert stored.json()["data"] == {"status": "success"}
    for name in names:
        assert monitor(account, modelId=name)["statistics"]["latency"]["count"] == len(names)
        rule = {"kind": "silence", "modelId": name, "after": 3600}
        assert account.post("/v1/api/alerts/rules", rule).json()["data"]["modelId"] == "openai/gpt2"
    record(account, modelId="https://hf.co/openai/gpt2/tree/v1/", metrics={"latency": 1})
    answer = account.http.get("/v1/api/models", headers=account.headers)
    assert [model["modelId"] for model in answer.json()["data"]["models"]] == [
        "openai/gpt2/tree/v1",
        "openai/gpt2",
    ]


def test_samples_are_read_back_as_json_and_csv_and_deleted_with_an_audit_entry(
    stack: MonitoredStack, account: Account, other: Account
) -> None:
    times = [at(minutes=n) for n in (4, 3, 2, 1)]
    values = [0.1 + 0.2, 8.0, 5000.5, 1e-9]
    for time, value in zip(times, values, strict=True):
        assert record(account, timestamp=time, metrics={"latency": value}).status_code == 200
    address = "/v1/api/monitor/samples?modelId=m&metric=latency"

    def call(method: str, path: str, caller: Account = account, **more: str) -> httpx2.Response:
        return caller.http.request(method, path, headers={**caller.headers, **more})

    page = call("GET", f"{address}&limit=3").json()["data"]
    assert [sample["value"] for sample in page["samples"]] == values[:3]
    rest = call("GET", f"{address}&limit=3&cursor={page['next']}").json()["data"]
    assert ([sample["value"] for sample in rest["samples"]], rest["next"]) == (values[3:], None)
    csv = call("GET", f"{address}&limit=3", Accept="text/csv")
    assert csv.headers["content-type"] == "text/csv"
    assert csv.text.splitlines()[1] == f"{times[0].replace('+00:00', 'Z')},latency,{values[0]!r}"
    following = csv.headers["link"].removeprefix("<").removesuffix('>; rel="next"')
    assert call("GET", following).text.splitlines()[1:] == [
        f"{times[3].replace('+00:00', 'Z')},latency,1e-09"
    ]
    for query, words in (
        ("modelId=m", "metric: "),
        ("modelId=m&metric=latency&from=yesterday", "from: write the time as RFC 3339"),
        ("modelId=m&metric=latency&from=2026-01-31T12:00:00", "from: the time has no zone"),
        ("modelId=m&metric=latency&cursor=x", "cursor: must be the `next` of the last page"),
        (f"modelId=m&metric=latency&to={quote(times[0])}&from={quote(times[1])}", "to: must be"),
        ("modelId=m&metric=latency&limit=10001", "limit: "),
        ("modelId=m&metric=latency&form=2026-01-31T12:00:00Z", "form: "),
        ("modelId=m&metric=latncy", "latncy was never recorded for this model"),
    ):
        refused = call("GET", f"/v1/api/monitor/samples?{query}", Accept="text/csv")
        assert refused.status_code in {400, 404}
        assert error_of(refused)["message"].startswith(words)
    narrow = account.make_key("narrow", scopes=["monitor:read"])["key"]
    refused = call("DELETE", address, Authorization=f"Bearer {narrow}")
    assert (refused.status_code, error_of(refused)["code"]) == (403, 2003)
    span = f"&from={quote(times[2])}&to={times[3]}"  # the second one's plus sign is not escaped
    assert error_of(call("DELETE", address + span, other))["code"] == 3001
    answer = call("DELETE", address + span)
    assert (answer.status_code, answer.json()["data"]) == (200, {"deleted": 1})
    statistics = monitor(account)["statistics"]["latency"]
    assert (statistics["count"], statistics["maximum"]) == (3, 8.0)
    audited = external_database.execute(
        stack.postgres.url("gateway"),
        "select details->>'deleted', details->>'metric', details ? 'key' from audit"
        " where act = 'samples_deleted' and account_id = %s",
        account.id,
        schema="gateway",
    )
    assert audited == [("1", "latency", True)]
