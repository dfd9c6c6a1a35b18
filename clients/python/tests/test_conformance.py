"""Both Python clients against the conformance cases that every client must pass."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted import Service

from lilypad_client import APIConnectionError, APIStatusError, AsyncLilypadClient, LilypadClient
from lilypad_client.retrying import Budget, Lost, Policy, Reply, Send, Wait, attempts

CASES = json.loads((Path(__file__).parents[2] / "conformance" / "retries.json").read_text())
STATISTICS = {"statistics": {}, "plots": {}, "recommendations": [], "findings": [], "warnings": []}
DATA = {
    "record": {"status": "success"},
    "monitor": {
        **STATISTICS,
        "window": {"since": "2026-01-01T00:00:00Z", "until": "2026-01-31T00:00:00Z"},
    },
    "add_rule": {
        "id": "rule_1", "origin": "own", "kind": "threshold", "modelId": None, "metric": "latency",
        "severity": "warning", "muted": False, "forMinutes": 0,
    },
}  # fmt: skip


def _arrange(service: Service, case: dict[str, Any]) -> dict[str, Any]:
    for answer in case["answers"]:
        if answer.get("reset"):
            service.answers.append(answer)
        elif "code" in answer:
            service.refuse(answer["status"], answer["code"], headers=answer.get("headers", {}))
        else:
            service.answer(DATA[case["call"]], answer["status"], half=answer.get("half"))
    return {"timeout": case.get("timeout", 60), "max_retries": case.get("maxRetries", 2)}


def _call(client: Any, case: dict[str, Any], metrics: dict[str, float]) -> Any:
    if case["call"] == "record":
        return client.metrics.record("a/b", metrics)
    if case["call"] == "monitor":
        return client.get_metrics("a/b")
    return client.alerts.rules.add(kind="threshold", metric="latency", above=1)


def _check(case: dict[str, Any], service: Service, pauses: list[float], error: Any) -> None:
    expected = case.get("error")
    if expected is None:
        assert error is None
    elif "connection" in expected:
        assert isinstance(error, APIConnectionError)
    else:
        assert isinstance(error, APIStatusError)
        assert error.code == expected["code"]
        assert error.retry_after == expected.get("retryAfter", error.retry_after)
    assert len(service.requests) == case["attempts"]
    assert len(pauses) == len(case["waits"])
    for pause, (least, most) in zip(pauses, case["waits"], strict=True):
        assert least <= pause <= most
    keys = {headers.get("Idempotency-Key") for _, headers, _ in service.requests}
    assert len(keys) == 1
    assert (None in keys) == (case["call"] != "record")
    assert len({body for _, _, body in service.requests}) == 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_the_client_passes_every_conformance_case(
    service: Service, pauses: list[float], case: dict[str, Any]
) -> None:
    error = None
    with LilypadClient("k", service.url, **_arrange(service, case)) as client:
        try:
            _call(client, case, {"latency": 1.0})
        except (APIStatusError, APIConnectionError) as raised:
            error = raised
    _check(case, service, pauses, error)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
async def test_the_asynchronous_client_passes_every_conformance_case(
    service: Service, pauses: list[float], case: dict[str, Any]
) -> None:
    error = None
    async with AsyncLilypadClient("k", service.url, **_arrange(service, case)) as client:
        metrics = {"latency": 1.0}
        try:
            called = _call(client, case, metrics)
            metrics["latency"] = 2.0  # a change after the call does not affect the request
            await called
        except (APIStatusError, APIConnectionError) as raised:
            error = raised
    _check(case, service, pauses, error)
    if case["call"] == "record":
        assert all(b'"latency": 1.0' in body for _, _, body in service.requests)


def test_an_outage_exhausts_the_retry_budget_and_successes_restore_it() -> None:
    policy = Policy(2, 60.0, Budget())
    request = LilypadClient("k")._connection.request(_monitor(), body={})
    sent = [_drive(attempts(request, policy), answer=None) for _ in range(8)]
    assert sent == [3, 3, 3, 3, 3, 1, 1, 1]
    for _ in range(10):
        _drive(attempts(request, policy), answer=Reply(200, {}, b""))
    assert _drive(attempts(request, policy), answer=None) == 2


def _monitor() -> Any:
    from lilypad_client import operations  # noqa: PLC0415  (beside its only use)

    return operations.MONITOR


def _drive(flow: Any, answer: Reply | None) -> int:
    """Run a flow to its end, giving each request the same outcome; return how many were sent."""
    sent, step = 0, next(flow)
    while True:
        sent += isinstance(step, Send)
        try:
            if isinstance(step, Wait):
                step = flow.send(None)
            elif answer is None:
                step = flow.throw(Lost("gone", sent=True))
            else:
                step = flow.send(answer)
        except (StopIteration, APIConnectionError):
            return sent
