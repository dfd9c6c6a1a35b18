"""The changes to python-socketio, engineio and uvicorn, which work and are still needed.

docs/decisions/011-patched-engine.md lists them. A test of the first kind fails when a release
of a library breaks a change; one of the second kind when the library no longer needs it.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp
import engineio
import pytest
import socketio
import uvicorn
from engineio.async_socket import AsyncSocket
from engineio.packet import MESSAGE, Packet

from local import ports
from realtime.engine import Engine
from realtime.origins import Origins
from realtime.update import Update
from realtime.websocket import Wire

ROOT = Path(__file__).parents[3]


class Recorder:
    """A listener that admits every client, and answers each event with its arguments."""

    def __init__(self) -> None:
        self.sockets: dict[str, Any] = {}
        self.closed: list[str] = []

    async def open(self, id: str, socket: Any) -> None:
        self.sockets[id] = socket

    async def close(self, id: str) -> None:
        self.closed.append(id)

    async def connect(self, id: str, auth: Any) -> None: ...

    async def disconnect(self, id: str) -> None: ...

    async def answer(self, id: str, data: list[Any]) -> dict[str, Any]:
        return {"status": "success", "data": data[1:]}

    def send(self, id: str, update: Update) -> None: ...


class Served:
    """A server in this process, and its address."""

    def __init__(self, engine: Any, listener: Recorder, port: int) -> None:
        self.engine = engine
        self.listener = listener
        self.url = f"http://127.0.0.1:{port}/socket.io/?EIO=4"


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    [port] = ports.find(1)
    listener = Recorder()
    engine = Engine(listener, Origins("http://127.0.0.1:8080"))
    app = socketio.ASGIApp(engine)
    server = uvicorn.Server(
        uvicorn.Config(app, port=port, ws=Wire, log_config=None, log_level="error", lifespan="off")
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    yield Served(engine, listener, port)
    server.should_exit = True
    await engine.shutdown()
    await serving


async def poll(http: aiohttp.ClientSession, url: str) -> str:
    async with http.get(url) as answer:
        return await answer.text()


async def open_polling(http: aiohttp.ClientSession, served: Served) -> tuple[str, str]:
    """Connect by polling; return the connection's id and URL."""
    url = f"{served.url}&transport=polling"
    id = json.loads((await poll(http, url))[1:])["sid"]
    url = f"{url}&sid={id}"
    await http.post(url, data="40")
    assert (await poll(http, url)).startswith("40")
    return id, url


def test_the_libraries_have_the_versions_that_the_decision_names():
    text = (ROOT / "docs/decisions/011-patched-engine.md").read_text()
    for library in ("python-socketio", "python-engineio", "uvicorn", "websockets"):
        assert f"{library} {version(library)}" in text, "measure again, and say for which version"


async def test_an_update_bypasses_the_librarys_queue_to_a_websocket(served):
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{served.url}&transport=websocket") as websocket,
    ):
        id = json.loads((await websocket.receive_str())[1:])["sid"]
        socket = served.listener.sockets[id]
        assert socket.wire.ready
        socket.wire.transport.write(Update("metric_update", {"n": 1}).frame)
        assert socket.queue.empty()
        assert await websocket.receive_str() == '42["metric_update",{"n":1}]'


async def test_a_connections_id_begins_with_the_id_of_its_first_request(served):
    url = f"{served.url}&transport=polling"
    async with aiohttp.ClientSession() as http:
        ids = []
        for request in ("request_1", "request_1", "no request's id"):
            async with http.get(url, headers={"X-Request-Id": request}) as answer:
                ids.append(json.loads((await answer.text())[1:])["sid"])
    assert [id.partition(".")[0] for id in ids[:2]] == ["request_1"] * 2
    assert len(set(ids)) == 3
    assert "." not in ids[2]


async def test_one_request_may_carry_more_than_sixteen_packets(served):
    async with aiohttp.ClientSession() as http:
        _, url = await open_polling(http, served)
        packets = "\x1e".join(f'42{number}["event",{number}]' for number in range(40))
        async with http.post(url, data=packets) as answer:
            assert answer.status == 200
        answers = ""
        while answers.count("success") < 40:
            answers += await poll(http, url)


async def test_an_answer_to_a_poll_has_at_most_sixteen_packets(served):
    async with aiohttp.ClientSession() as http:
        id, url = await open_polling(http, served)
        for number in range(40):
            served.listener.sockets[id].queue.put_nowait(Packet(MESSAGE, f'2["n",{number}]'))
        answers = [(await poll(http, url)).split("\x1e") for _ in range(3)]
    assert [len(packets) for packets in answers] == [16, 16, 8]
    received = [packet for packets in answers for packet in packets]
    assert received == [f'42["n",{number}]' for number in range(40)]


async def test_the_last_poll_of_an_ended_connection_is_answered_soon(served):
    async with aiohttp.ClientSession() as http:
        id, url = await open_polling(http, served)
        waiting = asyncio.create_task(poll(http, url))
        await asyncio.sleep(0.1)
        async with http.post(url, data="1") as answer:
            assert answer.status == 200
        await asyncio.wait_for(waiting, 30)
        assert served.listener.closed == [id]


async def test_the_listener_sees_a_connection_before_its_first_packet(served):
    async with aiohttp.ClientSession() as http:
        answer = await poll(http, f"{served.url}&transport=polling")
        assert list(served.listener.sockets) == [json.loads(answer[1:])["sid"]]


def bare_socket() -> tuple[engineio.AsyncServer, AsyncSocket]:
    """Return the library's unchanged server, with one connection."""
    server = engineio.AsyncServer(async_mode="asgi", monitor_clients=False)
    socket = server.sockets["one"] = AsyncSocket(server, "one")
    socket.connected = True
    return server, socket


async def test_engineio_still_answers_a_poll_with_everything_that_waits():
    _, socket = bare_socket()
    for number in range(40):
        socket.queue.put_nowait(Packet(MESSAGE, str(number)))
    assert len(await socket.poll()) == 40, "it limits answers now: drop our change"


async def test_engineio_still_leaves_the_last_poll_waiting():
    _, socket = bare_socket()
    await socket.close(wait=False, abort=True)
    assert socket.queue.empty(), "it ends the poll now: drop our change"


async def test_engineio_still_fails_on_a_message_to_an_ended_connection():
    server, socket = bare_socket()
    await socket.close(wait=False, abort=True)
    scope = {
        "type": "http", "method": "POST", "path": "/socket.io/", "headers": [], "scheme": "http",
        "query_string": b"EIO=4&transport=polling&sid=one", "http_version": "1.1",
    }  # fmt: skip

    async def receive() -> Any:
        return {"type": "http.request", "body": b"1", "more_body": False}

    async def send(_: Any) -> None:
        raise AssertionError("it answers now: drop our change")

    with pytest.raises(KeyError):
        await server.handle_request(scope, receive, send)


async def test_engineio_still_processes_every_packet_of_a_flood():
    """Without `Client.receive`, a thousand packets at once would be a thousand calls."""
    server, socket = bare_socket()
    seen: list[Any] = []
    server.on("message", lambda _id, data: seen.append(data))
    for number in range(1000):
        await socket.receive(Packet(MESSAGE, str(number)))
    await asyncio.sleep(0)
    assert len(seen) == 1000, "it limits clients now: drop our change"
