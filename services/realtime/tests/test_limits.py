"""The cost limits of a client, with real clients and misbehaving raw ones."""

import asyncio
import contextlib
import json
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import aiohttp
import psutil
import pytest
from socketio.exceptions import ConnectionError as Refused

from .conftest import counts


async def ended(watcher) -> None:
    await asyncio.wait_for(watcher.disconnected.wait(), 60)


async def test_an_account_gets_exactly_ten_sockets_across_replicas(stack, requests, new_watcher):
    watchers = [
        new_watcher("many/key", request=requests[n % 2], transports=["websocket"])
        for n in range(25)
    ]
    before = await counts(stack, "clients")
    for watcher in watchers[:8]:
        await watcher.connect()
    assert await counts(stack, "clients") == [count + 4 for count in before]
    racing = (watcher.connect() for watcher in watchers[8:])
    outcomes: list[Any] = [None] * 8
    outcomes += await asyncio.gather(*racing, return_exceptions=True)
    refused = [w for w, o in zip(watchers, outcomes, strict=True) if isinstance(o, Refused)]
    assert len(refused) == 15
    assert {w.refused["data"]["code"] for w in refused} == {2002}
    await next(w for w in watchers if w not in refused).client.disconnect()
    for _ in range(100):
        again = new_watcher("many/key")
        with contextlib.suppress(Refused):
            await again.connect()
            break
    assert again.client.connected


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_revoked_key_closes_only_its_own_sockets(others, watch, transport):
    revoked = [await watch(f"acc7/{transport}", transports=[transport]) for _ in range(2)]
    stays = await watch("acc7/k8")
    await others.revoke("acc7", transport)
    for watcher in revoked:
        await ended(watcher)
        assert watcher.of("error")[0]["code"] == 2001
    await others.alert("acc7", "m", "marker")
    await stays.wait_for("alert")
    assert not stays.disconnected.is_set()


async def test_a_message_over_64_kib_gets_an_error_and_a_disconnect(others, watch):
    watcher = await watch("acc1/key", transports=["websocket"])
    await watcher.client.emit("subscribe_metrics", {"modelId": "x" * 70_000})
    await ended(watcher)
    assert "64 KiB" in watcher.of("error")[0]["message"]


async def test_a_posted_message_over_64_kib_gets_an_error_and_a_disconnect(others, watch):
    watcher = await watch("acc1/key", transports=["polling"])
    await watcher.client.emit("subscribe_metrics", {"modelId": "x" * 70_000})
    await ended(watcher)
    assert "64 KiB" in watcher.of("error")[0]["message"]


async def test_a_posted_message_over_64_kib_is_read_to_its_end_before_the_answer(stack):
    """Otherwise a client that is still sending would get a broken connection, not the reason."""
    reader, writer = await asyncio.open_connection(*stack.addresses["realtime"][0])
    writer.write(b"POST /socket.io/?sid=x HTTP/1.1\r\nHost: x\r\nContent-Length: 70000\r\n\r\nx")
    answer = asyncio.create_task(reader.readline())
    await asyncio.sleep(0.3)
    assert not answer.done()
    writer.write(b"x" * 69_999)
    assert await answer == b"HTTP/1.1 200 OK\r\n"
    writer.close()


@pytest.mark.parametrize("transport", ["polling", "websocket"])
async def test_a_flooding_client_is_disconnected_while_others_receive_updates(
    others, watch, transport
):
    await others.record("acc1", "m", tell=False, latency=1)
    quiet = await watch("acc1/key")
    await quiet.subscribe("m")
    flooding = await watch("acc2/key", transports=[transport])
    for _ in range(1000):
        if flooding.disconnected.is_set():
            break
        with contextlib.suppress(Exception):
            await flooding.client.emit("subscribe_metrics", {"modelId": "m"})
    await ended(flooding)
    assert 2002 in [error["code"] for error in flooding.of("error")]
    await others.record("acc1", "m", latency=2)
    await quiet.wait_for("metric_update")


async def test_a_binary_message_gets_an_error_and_a_disconnect(others, watch):
    watcher = await watch("acc1/key")
    await watcher.client.emit("subscribe_metrics", b"\0" * 100)
    await ended(watcher)
    assert watcher.of("error")[0]["code"] == 1003


async def test_a_page_of_another_origin_is_refused(stack, others):
    async with aiohttp.ClientSession() as http:
        for path in ("?EIO=4&transport=polling", "?EIO=4&transport=websocket"):
            for origin, allowed in (
                ("https://evil.example", False),
                (f"{stack.url}.evil.example", False),
                ("null", False),
                ("http://[", False),
                (stack.url, True),
            ):
                headers = {"Origin": origin}
                if "websocket" in path:
                    headers |= {"Upgrade": "websocket", "Connection": "Upgrade"}
                    headers |= {
                        "Sec-WebSocket-Version": "13",
                        "Sec-WebSocket-Key": "MTIzNDU2Nzg5MDEyMzQ1Ng==",
                    }
                async with http.get(f"{stack.url}/socket.io/{path}", headers=headers) as answer:
                    assert (answer.status in (101, 200)) == allowed, (path, origin, answer.status)
                    assert answer.status < 500, (path, origin)


async def test_a_client_of_a_busy_model_receives_fewer_updates_than_samples_and_the_last_value(
    others, watch
):
    await others.record("acc1", "busy", tell=False, latency=1)
    watcher = await watch("acc1/key")
    await watcher.subscribe("busy")
    for number in range(2000):
        await others.record("acc1", "busy", latency=number)
    await others.record("acc1", "busy", last=1)
    async with asyncio.timeout(60), watcher.changed:
        await watcher.changed.wait_for(
            lambda: any("last" in update["metrics"] for update in watcher.of("metric_update"))
        )
    values = [
        u["metrics"]["latency"] for u in watcher.of("metric_update") if "latency" in u["metrics"]
    ]
    assert values[-1] == 1999
    assert values == sorted(values)
    assert len(values) < 1500


# By its id the edge sends each connection to the same replica.
REQUEST = "same_replica"


class Raw:
    """A WebSocket client that reads only on request."""

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.connect(address)
        self.socket.sendall(
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: x\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n"
            b"X-Request-Id: " + REQUEST.encode() + b"\r\n\r\n"
        )
        self.read_until(b'"maxPayload"')

    def send(self, text: str) -> None:
        size = len(text)
        head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
        self.socket.sendall(head + b"\0\0\0\0" + text.encode())

    def read_until(self, what: bytes) -> bytes:
        self.socket.settimeout(60)
        read = b""
        while what not in read:
            more = self.socket.recv(65536)
            assert more, read
            read += more
        return read

    def read_to_the_end(self) -> bytes:
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.settimeout(60)
        read = bytearray()  # adding to bytes would copy megabytes each time
        with contextlib.suppress(ConnectionError):
            while more := self.socket.recv(65536):
                read += more
        return bytes(read)


async def test_a_client_without_a_token_is_disconnected(stack, others):
    raw = Raw(stack.addresses["realtime"][0])
    read = await asyncio.to_thread(raw.read_to_the_end)
    assert b"2001" in read
    raw.socket.close()


def received(watcher, since: int, at: str) -> bool:
    """Whether an update with the timestamp `at` is among the events from index `since` on."""
    return any(data["timestamp"] == at for _, data in watcher.received[since:])


@pytest.mark.long
async def test_clients_that_do_not_read_cost_little_memory_and_are_disconnected_with_the_reason(
    stack, others, watch
):
    await others.record("deaf", "m", tell=False, latency=1)
    before = await counts(stack, "clients")
    raws = []
    for number in range(9):
        raw = Raw(("127.0.0.1", stack.port))
        raw.send("40" + json.dumps({"token": f"deaf/{number}"}))
        await asyncio.to_thread(raw.read_until, b'"sid"')
        raw.send('420["subscribe_metrics",{"modelId":"m"}]')
        await asyncio.to_thread(raw.read_until, b"success")
        raws.append(raw)
    healthy = await watch("deaf/ok", request=REQUEST)
    await healthy.subscribe("m")
    now = await counts(stack, "clients")
    [replica] = [n for n, count in enumerate(now) if count == before[n] + 10]
    process = psutil.Process(stack.processes[f"realtime-{replica + 1}"].pid)
    least = most = process.memory_info().rss

    async def read_once_dismissed() -> list[bytes]:
        """Read from all clients at once, within the seconds in which the reason can be read."""
        async with asyncio.timeout(180):
            while (await counts(stack, "clients"))[replica] > before[replica] + 1:
                await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(raws)) as threads:
            return await asyncio.gather(
                *(loop.run_in_executor(threads, raw.read_to_the_end) for raw in raws)
            )

    # Large, to fill all buffers before the clients' pings are overdue, which closes without a
    # reason.
    metrics = [{f"metric_{n}_{k}": 1.0 for n in range(180)} for k in range(50)]
    sent, waits = 0, []
    reading = asyncio.create_task(read_once_dismissed())
    while not reading.done():
        for _ in range(20):
            await others.record("deaf", "m", **metrics[sent % 50])
            sent += 1
            most = max(most, process.memory_info().rss)
            await asyncio.sleep(0.005)
        begun, events = time.monotonic(), len(healthy.received)
        at = await others.record("deaf", "m", marker=sent)
        await healthy.wait_until(partial(received, healthy, events, at))
        waits.append(time.monotonic() - begun)
    assert most - least < len(raws) * 1024 * 1024
    assert statistics.median(waits) < 1
    # The clients have read the rest of their buffers.
    for read in await reading:
        assert b"the client read nothing for 10 s" in read[-200:]
    for raw in raws:
        raw.socket.close()


@pytest.mark.long
async def test_clients_that_do_not_read_their_replay_cost_little_memory(stack, others, watch):
    since = await others.record("absent", "m", tell=False, n0=0)
    metrics = {f"metric_{n}": 1.0 for n in range(50)}
    for _ in range(400):
        await others.record("absent", "m", tell=False, **metrics)
    before = await counts(stack, "clients")
    raws = []
    for number in range(8):
        raw = Raw(("127.0.0.1", stack.port))
        raw.send("40" + json.dumps({"token": f"absent/{number}"}))
        await asyncio.to_thread(raw.read_until, b'"sid"')
        raws.append(raw)
    now = await counts(stack, "clients")
    [replica] = [n for n, count in enumerate(now) if count == before[n] + 8]
    process = psutil.Process(stack.processes[f"realtime-{replica + 1}"].pid)
    least = most = process.memory_info().rss
    event = json.dumps(["subscribe_metrics", {"modelId": "m", "since": since, "cursor": True}])
    for raw in raws:
        for ack in range(8):
            raw.send(f"42{ack}{event}")
    deadline = time.monotonic() + 180
    while (await counts(stack, "clients"))[replica] > before[replica]:
        assert time.monotonic() < deadline, "they stay connected"
        most = max(most, process.memory_info().rss)
        await asyncio.sleep(0.02)
    assert most - least < len(raws) * 1024 * 1024
    for raw in raws:
        raw.socket.close()
