import asyncio
from collections.abc import Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any, cast

import orjson
import pytest

from common import bus
from local.stack import Stack
from realtime import heartbeat
from realtime.application import Application
from realtime.heartbeat import Heartbeat
from realtime.slots import Slots


@pytest.fixture
def server() -> Iterator[Stack]:
    with Stack(servers={"nats"}, services=()) as running:
        yield running


async def get(application: Application, path: str) -> tuple[int, Any, dict[bytes, bytes]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request"}

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
    await application(scope, receive, send)
    return sent[0]["status"], orjson.loads(sent[1]["body"]), dict(sent[0]["headers"])


def lost(since: datetime) -> None:
    raise AssertionError("no connection was lost")


async def test_a_replica_that_receives_no_heartbeat_becomes_unready_and_exits(server, monkeypatch):
    monkeypatch.setattr(heartbeat, "DEAF_S", 0.5)
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.05)
    async with bus.connect(server.nats.url("realtime"), "realtime") as connection:
        slots = Slots(connection, "one")  # not started: nothing answers its own requests
        beating = Heartbeat(connection, slots, lost)
        sockets: Any = SimpleNamespace(
            draining=False, engine=None, clients={}, topics=SimpleNamespace(decoded=0)
        )
        application = Application(sockets, beating)
        with pytest.raises(RuntimeError, match="delivers nothing"):
            await beating.beat()
        status, body, _ = await get(application, "/readyz")
        assert (status, body["error"]["code"]) == (503, 5003)
        assert (await get(application, "/healthz"))[0] == 200
        beating.last_s = float("inf")
        assert (await get(application, "/readyz"))[0] == 200
        application.stopping = True
        status, _, headers = await get(application, "/readyz")
        assert (status, headers[b"connection"]) == (503, b"close")


@pytest.mark.parametrize("failed_before", [False, True])
async def test_a_replica_that_was_stopped_for_long_continues_when_it_resumes(
    monkeypatch, failed_before
):
    clock_s, trips = [100.0], 0

    async def request(*_: Any, **__: Any) -> None:
        nonlocal trips
        trips += 1
        if trips == 1 and failed_before:
            raise TimeoutError
        if trips == 2:  # the process stood still, and its request was lost
            clock_s[0] += 10 * heartbeat.DEAF_S
            raise TimeoutError
        if trips == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr(heartbeat, "time", SimpleNamespace(monotonic=lambda: clock_s[0]))
    monkeypatch.setattr(heartbeat, "BEAT_S", 0.01)
    client = SimpleNamespace(request=request, is_connected=True, stats={"reconnects": 0})
    slots = SimpleNamespace(owner="one", connected_since_s=0.0)
    replica: Any = SimpleNamespace(client=client)
    with pytest.raises(asyncio.CancelledError):
        await Heartbeat(replica, cast("Slots", slots), lost).beat()
    assert trips == 4
