"""Permissions on the bus, with the real server and the real configuration."""

import asyncio
import contextlib
import gc
import json
import socket
import threading
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from common.contracts import Rpc
from common.contracts.access import AUTHENTICATE
from common.contracts.benchmarking import PROFILE
from common.contracts.generation import GENERATE
from common.contracts.history import HISTORY
from common.contracts.hub import HUB_TOKEN
from common.contracts.recording import RECORD
from common.pending import EVERY_REPLICA
from local.credentials import Credentials
from local.nats import USERS, Nats
from local.stack import Stack


class Guest(Client):
    """A client that collects the server's messages about refused operations."""

    def __init__(self) -> None:
        super().__init__()
        self.refusals: asyncio.Queue[str] = asyncio.Queue()

    async def enter(self, url: str, inbox_prefix: str = "_INBOX") -> None:
        await self.connect(
            url, inbox_prefix=inbox_prefix, error_cb=self._on_error, allow_reconnect=False
        )

    async def _on_error(self, error: Exception) -> None:
        await self.refusals.put(str(error))

    async def settle(self) -> None:
        """Wait until the server has read all messages.

        Twice, since nats-py sends the first PING ahead of the data waiting to be sent.
        """
        await self.flush()
        await self.flush()

    async def expect_refusal(self, subject: str) -> None:
        """Wait until the server reports a permissions violation on the subject."""
        refusal = await asyncio.wait_for(self.refusals.get(), 30)
        assert "permissions violation" in refusal
        assert subject.lower() in refusal.lower()


Connect = Callable[[str], Awaitable[Guest]]


@pytest.fixture
async def connect(servers: Stack) -> AsyncIterator[Connect]:
    guests: list[Guest] = []

    async def connect(user: str) -> Guest:
        guest = Guest()
        await guest.enter(servers.nats.url(user), f"_INBOX.{user}")
        guests.append(guest)
        return guest

    yield connect
    for guest in guests:
        await guest.close()


async def answer(message: Msg) -> None:
    await message.respond(b"answer")


async def test_a_hanging_client_is_disconnected(servers: Stack) -> None:
    user = {"user": "generator", "pass": servers.nats.credentials.password("nats/generator")}
    reader, writer = await asyncio.open_connection("127.0.0.1", servers.nats.port)
    writer.write(f"CONNECT {json.dumps({**user, 'verbose': False})}\r\nPING\r\n".encode())
    async with asyncio.timeout(100):  # by the configuration 12 s, by default 4 minutes
        received = await reader.read()
    writer.close()
    assert b"Stale Connection" in received


def test_a_refusing_server_is_not_ready_and_the_probe_leaks_no_socket(tmp_path: Path) -> None:
    def refuse() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connection.sendall(b'INFO {"max_payload":1048576}\r\n')
                connection.recv(65536)
                connection.sendall(b"-ERR 'Authorization Violation'\r\n")
                connection.close()

    gc.collect()
    with (
        warnings.catch_warnings(record=True, action="always") as caught,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        threading.Thread(target=refuse, daemon=True).start()
        credentials = Credentials(tmp_path / "credentials.json")
        server = Nats(tmp_path, listener.getsockname()[1], credentials)
        assert [server.answers("nobody") for _ in range(5)] == [-1] * 5
        listener.shutdown(socket.SHUT_RDWR)
        gc.collect()
    assert not [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    "credentials",
    [
        {},
        {"user": "gateway"},
        {"user": "gateway", "pass": "wrong"},
        {"user": "nobody", "pass": "x"},
    ],
)
async def test_a_client_without_a_password_is_refused_by_the_bus(
    servers: Stack, credentials: dict[str, str]
) -> None:
    with socket.create_connection(("127.0.0.1", servers.nats.port)) as connection:
        greeting = connection.recv(65536)
        assert greeting.startswith(b"INFO ")
        connection.sendall(b"CONNECT %s\r\nPING\r\n" % json.dumps(credentials).encode())
        assert connection.recv(65536) == b"-ERR 'Authorization Violation'\r\n"


async def test_a_service_receives_a_request_and_answers(connect: Connect) -> None:
    gateway, generator = await connect("gateway"), await connect("generator")
    await generator.subscribe("rpc.generator.generate", queue="generator", cb=answer)
    await generator.settle()
    reply = await gateway.request("rpc.generator.generate", b"")
    assert reply.data == b"answer"


@pytest.mark.parametrize(
    ("caller", "rpc"),
    [
        ("gateway", RECORD),
        ("realtime", AUTHENTICATE),
        ("realtime", HISTORY),
        ("generator", PROFILE),
        ("generator", HUB_TOKEN),
        ("benchmarker", HUB_TOKEN),
        ("benchmarker", GENERATE),
    ],
)
async def test_a_late_call_may_be_sent_to_every_replica(
    connect: Connect, caller: str, rpc: Rpc[Any, Any]
) -> None:
    assert rpc.repeatable
    subject = f"{rpc.subject}.{EVERY_REPLICA}"
    calling, called = await connect(caller), await connect(rpc.service)
    await called.subscribe(subject, cb=answer)
    await called.settle()
    assert (await calling.request(subject, b"")).data == b"answer"


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("gateway", "rpc.generator.generate"),
        ("generator", "rpc.gateway.authenticate"),
        ("generator", "rpc.>"),
        ("generator", ">"),
        ("generator", "event.>"),
        ("worker", "rpc.benchmarker.report"),
        ("worker", "event.>"),
        ("worker", "event.benchmark.>"),
        ("worker", "job.>"),
        ("worker", "dead.>"),
        ("worker", "_INBOX.benchmarker.>"),
        ("metrics", "_INBOX.gateway.>"),
        ("metrics", "event.>"),
        ("gateway", "event.metrics.recorded.>"),
        ("realtime", "event.account.deleted.>"),
        ("supervisor", "event.>"),
        ("gateway", "unlisted"),
    ],
)
async def test_a_service_cannot_subscribe_to_anothers_requests(
    connect: Connect, user: str, subject: str
) -> None:
    client = await connect(user)
    await client.subscribe(subject)
    await client.expect_refusal(subject)


@pytest.mark.parametrize(
    ("user", "subject"),
    [
        ("generator", "rpc.gateway.authenticate"),
        ("generator", "rpc.benchmarker.start"),
        ("generator", "event.key.revoked.a.b"),
        ("generator", "limit.api.a.1"),
        ("generator", "$JS.API.STREAM.DELETE.LIMITS_60"),
        ("worker", "$JS.API.STREAM.DELETE.JOBS"),
        ("worker", "rpc.metrics.record"),
        ("worker", "rpc.gateway.hub_token"),
        ("worker", "rpc.benchmarker.start"),
        ("worker", "event.benchmark.progressed.a.b"),
        ("worker", "job.benchmarker.measure.cpu"),
        ("worker", "$JS.API.STREAM.MSG.GET.JOBS"),
        ("worker", "$JS.API.DIRECT.GET.MODELS.a"),
        ("worker", "$JS.API.CONSUMER.CREATE.DEAD.x"),
        ("worker", "$JS.ACK.DEAD.x.1.1.1.1.0"),
        ("worker", "$KV.sockets.a"),
        ("realtime", "rpc.gateway.hub_token"),
        ("realtime", "$JS.API.STREAM.DELETE.JOBS"),
        ("realtime", "$JS.API.STREAM.MSG.GET.JOBS"),
        ("benchmarker", "$JS.API.STREAM.DELETE.LIMITS_60"),
        ("benchmarker", "$JS.API.STREAM.UPDATE.KV_sockets"),
        ("benchmarker", "$JS.API.STREAM.MSG.GET.MODELS"),
        ("benchmarker", "$JS.API.STREAM.MSG.GET.DEAD"),
        ("benchmarker", "$JS.ACK.JOBS.x.1.1.1.1.0"),
        ("benchmarker", "rpc.metrics.delete_samples"),
        ("benchmarker", "$JS.API.CONSUMER.CREATE.KV_sockets.x"),
        ("benchmarker", "$KV.sockets.a"),
        ("metrics", "rpc.gateway.hub_token"),
        ("webhooks", "rpc.gateway.hub_token"),
        ("metrics", "rpc.generator.generate"),
        ("metrics", "event.key.revoked.a.b"),
        ("metrics", "$JS.API.STREAM.DELETE.LIMITS_60"),
        ("gateway", "$JS.API.STREAM.DELETE.JOBS"),
        ("gateway", "rpc.benchmarker.report"),
        ("gateway", "rpc.webhooks.note"),
        ("gateway", "event.metrics.recorded.a.b"),
        ("realtime", "rpc.metrics.record"),
        ("realtime", "$JS.API.CONSUMER.CREATE.KV_sockets.x"),
        ("supervisor", "$JS.API.CONSUMER.DELETE.JOBS.worker"),
        ("supervisor", "$JS.API.STREAM.DELETE.LIMITS_60"),
        ("supervisor", "rpc.generator.generate"),
        ("gateway", "unlisted"),
        ("gateway", "_INBOX.generator.x.1"),
    ],
)
async def test_a_service_cannot_publish_on_anothers_subjects(
    connect: Connect, user: str, subject: str
) -> None:
    client = await connect(user)
    await client.publish(subject, b"")
    await client.expect_refusal(subject)


@pytest.mark.parametrize("user", USERS)
async def test_every_service_is_discovered_by_the_supervisor(connect: Connect, user: str) -> None:
    if user == "supervisor":
        return
    service, supervisor = await connect(user), await connect("supervisor")
    for subject in ("$SRV.PING", f"$SRV.PING.{user}", f"$SRV.PING.{user}.an-id"):
        await service.subscribe(subject, cb=answer)
        await service.settle()
        assert (await supervisor.request(subject, b"")).data == b"answer"
    assert service.refusals.empty()


async def test_readiness_counts_the_instances_that_answer(servers: Stack, connect: Connect) -> None:
    assert await asyncio.to_thread(servers.nats.answers, "generator") == 0
    for count in (1, 2):
        generator = await connect("generator")
        await generator.subscribe("$SRV.PING.generator", cb=answer)
        await generator.settle()
        assert await asyncio.to_thread(servers.nats.answers, "generator") == count


async def test_an_acknowledged_message_survives_a_killed_server(
    servers: Stack, connect: Connect
) -> None:
    gateway = await connect("gateway")
    stream = gateway.jetstream()
    await stream.add_stream(name="LIMITS_60", subjects=["limit.>"], allow_direct=True)
    await stream.publish("limit.kept", b"still here")
    servers.processes["nats"].kill()
    await asyncio.to_thread(servers.wait_until_ready, "nats")
    again = await connect("gateway")
    kept = await again.jetstream().get_last_msg("LIMITS_60", "limit.kept", direct=True)
    assert kept.data == b"still here"
