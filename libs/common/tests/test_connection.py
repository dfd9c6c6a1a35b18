import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import nats.errors
import pytest
import uvloop

from common import bus, connection
from common.connection import Connection, ReceivedMessage, encode


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[Connection]:
    client = Connection()
    await client.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, **options)
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
async def client(nats_server) -> AsyncIterator[Connection]:
    async with connected(nats_server.url) as client:
        yield client


async def test_messages_arrive_unchanged_and_in_order(client: Connection) -> None:
    received: list[ReceivedMessage] = []
    await client.listen("a.*", received.append)
    headers = {"X-One": "1: one", "X-Other": "é", "X-Broken": "one\r\nX-Two: 2"}
    client.send("a.b", b"\r\n\x00", "to.me", encode(headers))
    client.send("a.c", b"")
    await client.flush()
    first, second = received
    assert (first.subject, first.reply, first.data) == ("a.b", "to.me", b"\r\n\x00")
    assert first.headers == {"X-One": "1: one", "X-Other": "é", "X-Broken": "one  X-Two: 2"}
    assert (second.subject, second.reply, second.data, second.headers) == ("a.c", "", b"", {})


async def test_messages_are_exchanged_with_plain_nats_py(client: Connection, nats_server) -> None:
    async with connected(nats_server.url) as other:
        subscription = await other.subscribe("a")
        received: list[ReceivedMessage] = []
        await client.listen("b", received.append)
        await other.flush()
        await client.flush()
        client.send("a", b"x", headers=encode({"One": "1"}))
        message = await subscription.next_msg(timeout=60)
        assert (message.data, message.headers) == (b"x", {"One": "1"})
        await other.publish("b", b"y", headers={"Two": "2"})
        await other.flush()
        await client.flush()
    assert [(message.data, message.headers) for message in received] == [(b"y", {"Two": "2"})]


async def test_the_server_reports_a_subject_without_subscribers(client: Connection) -> None:
    received: list[ReceivedMessage] = []
    await client.listen("inbox", received.append)
    client.send("nobody", b"", "inbox")
    await client.flush()
    [message] = received
    assert (message.data, message.headers["Status"]) == (b"", "503")


async def test_a_subscription_is_sent_before_later_messages(
    client: Connection,
) -> None:
    """nats-py writes subscriptions on its own schedule, `send` at the end of the loop's turn."""
    received: list[ReceivedMessage] = []
    for number in range(200):
        await client.listen(f"a.{number}", received.append)
        client.send(f"a.{number}", b"")
    await client.flush()
    assert [message.subject for message in received] == [f"a.{number}" for number in range(200)]


async def test_a_flush_is_sent_after_earlier_subscriptions(
    client: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[bytes] = []
    transport = client._transport
    assert transport is not None
    monkeypatch.setattr(transport, "write", lambda data: written.append(bytes(data)))
    monkeypatch.setattr(transport, "writelines", written.extend)
    await client.listen("a", print)
    with pytest.raises(nats.errors.TimeoutError):
        await client.flush(timeout=0.1)
    assert [line[:4] for line in written] == [b"SUB ", b"PING"]


async def test_a_draining_replica_of_a_queue_group_loses_no_message(
    client: Connection, nats_server
) -> None:
    async with connected(nats_server.url) as other:
        received: list[ReceivedMessage] = []
        leaves = await other.listen("a", received.append, "queue")
        await client.listen("a", received.append, "queue")
        await other.flush()
        await client.flush()
        for number in range(2000):
            client.send("a", str(number).encode())
            if number == 1000:
                await leaves.drain()
        await client.flush()
        await other.flush()
    assert sorted(int(message.data) for message in received) == list(range(2000))


async def test_subscriptions_are_restored_after_a_restart_of_the_server(
    client: Connection, nats_server
) -> None:
    received: list[ReceivedMessage] = []
    await client.listen("a", received.append)
    nats_server.kill()
    async with asyncio.timeout(60):
        while client.is_connected:
            await asyncio.sleep(0.01)
        with pytest.raises(nats.errors.OutboundBufferLimitError):
            client.send("a", b"lost")
        nats_server.start()
        while not client.is_connected:
            await asyncio.sleep(0.01)
        client.send("a", b"again")
        await client.flush()
    assert [message.data for message in received] == [b"again"]


async def test_a_message_of_a_lost_connection_is_not_sent_on_the_next(
    client: Connection,
) -> None:
    """The caller has already received the error that the bus is unavailable."""
    received: list[ReceivedMessage] = []
    await client.listen("a", received.append)
    await client.flush()
    client.send("a", b"lost")
    client._socket.abort()
    async with asyncio.timeout(60):
        while not (client.is_connected and client.stats["reconnects"]):
            await asyncio.sleep(0.01)
    client.send("a", b"again")
    await client.flush()
    assert [message.data for message in received] == [b"again"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_a_client_can_close_while_the_server_is_unavailable(
    nats_server, run: Callable[..., None]
) -> None:
    async def leave() -> None:
        async with bus.connect(nats_server.url, "caller") as caller:
            nats_server.kill()
            async with asyncio.timeout(60):
                while caller.client.is_connected:
                    await asyncio.sleep(0.01)
            await caller.client.publish("a", b"never heard")

    run(leave())


async def test_a_message_that_is_too_large_or_cannot_be_buffered_is_refused(
    client: Connection, nats_server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(nats.errors.MaxPayloadError):
        client.send("a", b"x" * 1_048_577)
    monkeypatch.setattr(connection, "MAX_UNSENT_BYTES", 1024)

    async def send_on() -> None:
        while True:
            client.send("a", b"x" * 1_000_000)
            await asyncio.sleep(0)

    nats_server.hang()
    with pytest.raises(nats.errors.OutboundBufferLimitError):
        await send_on()
    nats_server.go_on()


async def test_a_connection_survives_a_server_that_hangs_briefly(
    client: Connection, nats_server
) -> None:
    received: list[ReceivedMessage] = []
    await client.listen("a", received.append)
    await client.flush()
    nats_server.hang()
    with pytest.raises(nats.errors.TimeoutError):
        await client.flush(timeout=0.1)
    nats_server.go_on()
    client.send("a", b"again")
    await client.flush()
    assert [message.data for message in received] == [b"again"]
    assert client.stats["reconnects"] == 0


async def test_refused_reconnections_leave_no_socket_open() -> None:
    attempts = 0

    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal attempts
        attempts += 1
        writer.write(b'INFO {"max_payload":1048576}\r\n')
        await reader.readuntil(b"PING\r\n")
        if attempts == 1 or attempts > 5:
            writer.write(b"PONG\r\n")
        else:
            writer.write(b"-ERR 'Authorization Violation'\r\n")
        while attempts > 5 and (line := await reader.readline()):
            if line == b"PING\r\n":
                writer.write(b"PONG\r\n")
        writer.close()

    async def ignore(_: Exception) -> None:
        pass

    gc.collect()
    with warnings.catch_warnings(record=True, action="always") as caught:
        async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
            url = f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            async with connected(url, error_cb=ignore) as client:
                while attempts < 6 or not client.is_connected:
                    await asyncio.sleep(0.05)
        gc.collect()
    assert attempts == 6
    assert not [str(warning.message) for warning in caught]
