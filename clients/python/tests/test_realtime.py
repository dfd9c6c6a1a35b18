"""Live updates, from a scripted socket."""

import asyncio
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from typing import Any

import pytest

from lilypad_client import AsyncLilypadClient, realtime
from lilypad_client.feed import Event

TIME = "2026-01-31T12:00:00Z"


def _update(value: float) -> dict[str, Any]:
    return {"modelId": "a/b", "timestamp": TIME, "metrics": {"latency": value}}


async def test_an_update_states_whether_earlier_ones_were_skipped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests: list[dict[str, Any]] = []

    async def send(_name: str, body: dict[str, Any]) -> None:
        requests.append(body)

    async def events(_connection: Any) -> AsyncGenerator[Event]:
        for complete in (True, False):
            yield Event("connect", None, send)
            yield Event("metric_update", _update(1), send)
            answer = {"status": "success", "complete": complete, "cursor": "c1"}
            yield Event("acknowledged", answer, send)
            for value in (2, 3):
                yield Event("metric_update", _update(value), send)

    monkeypatch.setattr("lilypad_client.realtime.events", events)
    async with AsyncLilypadClient("k") as client:
        updates = [update async for update in client.subscribe_metrics("a/b", since=TIME)]
    received = [(update.metrics["latency"], update.complete) for update in updates]
    assert received == [(1, True), (2, True), (3, True), (1, True), (2, False), (3, True)]
    assert [body["since"] for body in requests] == [TIME, "c1"]


def test_an_interrupted_iteration_closes_its_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = []

    async def updates() -> AsyncGenerator[int]:
        reading = asyncio.ensure_future(asyncio.sleep(3600))
        try:
            yield 1
            await reading
        finally:
            await asyncio.sleep(0)
            ended.append(True)

    items = realtime.blocking(updates())
    assert next(items) == 1
    result = Future.result

    def interrupt(*_: Any) -> Any:
        monkeypatch.setattr(Future, "result", result)
        raise KeyboardInterrupt

    monkeypatch.setattr(Future, "result", interrupt)
    with pytest.raises(KeyboardInterrupt):
        next(items)
    assert ended == [True]
