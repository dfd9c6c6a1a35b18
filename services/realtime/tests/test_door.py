from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import orjson
import pytest

from common import bus
from local.stack import Stack
from realtime import door
from realtime.door import Door, Pulse
from realtime.slots import Slots


@pytest.fixture
def server() -> Iterator[Stack]:
    with Stack(servers={"nats"}, services=()) as running:
        yield running


async def get(asked: Door, path: str) -> tuple[int, Any, dict[bytes, bytes]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await asked(scope, receive, send)
    return sent[0]["status"], orjson.loads(sent[1]["body"]), dict(sent[0]["headers"])


def lost(since: datetime) -> None:
    raise AssertionError("no connection was lost")


async def test_who_hears_nothing_is_not_ready_and_does_not_stay(server, monkeypatch):
    monkeypatch.setattr(door, "DEAF", 0.5)
    monkeypatch.setattr(door, "BEAT", 0.05)
    async with bus.connect(server.nats.url("realtime"), "realtime") as connection:
        slots = Slots(connection, "one")  # not started: nobody listens to what it sends itself
        pulse = Pulse(connection, slots, lost)
        sockets = SimpleNamespace(
            draining=False, server=None, clients={}, topics=SimpleNamespace(decoded=0)
        )
        asked = Door(sockets, pulse)
        with pytest.raises(RuntimeError, match="brings nothing"):
            await pulse.beat()
        status, body, _ = await get(asked, "/readyz")
        assert (status, body["error"]["code"]) == (503, 5003)
        assert (await get(asked, "/healthz"))[0] == 200
        pulse.heard = float("inf")
        assert (await get(asked, "/readyz"))[0] == 200
        asked.leaving = True
        status, _, headers = await get(asked, "/readyz")
        assert (status, headers[b"connection"]) == (503, b"close")
