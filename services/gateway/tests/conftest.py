"""A gateway in this process, on a real database and a real bus; other services are stand-ins."""

import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.fernet import Fernet

from common import bus, context, postgres
from common.bus import NatsBus
from common.contracts import Input, Message
from common.contracts.webhooks import LIST_WEBHOOKS, Webhooks, WebhooksRequest
from common.encryption import Encryption
from common.postgres import Database
from common.testing import MemoryBus
from gateway import accounts, samples
from gateway.accounts import Accounts
from gateway.app import Gateway
from gateway.authentication import Authentication
from gateway.capacity import Capacity
from gateway.deletion import Deletion
from gateway.door import Guards
from gateway.endpoint import Answer, Call, Endpoint, always, endpoints_of
from gateway.generations import GenerationLog
from gateway.hub_tokens import HubTokens
from gateway.idempotency import Idempotency
from gateway.keyring import KeyRing, NewKey
from gateway.limits import Limits
from gateway.passwords import Passwords
from gateway.recovery import Recovery
from gateway.routes.accounts import AccountRoutes
from gateway.routes.benchmarks import BenchmarkRoutes
from gateway.routes.hub_tokens import HubTokenRoutes
from gateway.routes.keys import KeyRoutes
from gateway.routes.reading import UsageRoutes
from gateway.routes.second_factor import SecondFactorRoutes
from gateway.second_factor import SecondFactor
from gateway.sessions import Sessions
from gateway.usage import UsageCounts, UsageKind
from gateway.waiting import until
from gateway.windows import Policy
from local.services import Service
from local.stack import Stack

LOGINS = 10_000
KEY = Fernet.generate_key().decode()


def suspend(pid: int) -> None:
    """Stop a process until it gets SIGCONT; return once all its threads have stopped."""
    os.kill(pid, signal.SIGSTOP)
    threads = list(Path(f"/proc/{pid}/task").glob("*/stat"))
    while not all(path.read_text().rpartition(")")[2].split()[0] == "T" for path in threads):
        time.sleep(0.001)


class EchoRequest(Input):
    word: str = ""


class Echo(Message):
    word: str
    times: int


@dataclass
class Desk:
    """A gateway, and the requests that its test endpoint has received."""

    gateway: Gateway
    guards: Guards
    keyring: KeyRing
    events: MemoryBus
    calls: list[tuple[str, str]]
    answer: Callable[[Call, EchoRequest], Any] | None = None

    def http(self, **options: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.gateway)
        return httpx2.AsyncClient(transport=transport, base_url="http://gateway", **options)

    async def key(self, **fields: Any) -> tuple[str, str]:
        """Create an account; return its id and an API key."""
        account = f"acc_{len(self.calls)}_{id(fields)}_{await _number(self)}"
        async with self.guards.accounts.database.connection() as connection:
            await connection.execute(
                "insert into accounts (id, email, password) values (%s, %s, '')",
                [account, f"{account}@example.com"],
            )
        key = await self.keyring.create(account, NewKey(name="test", **fields))
        return account, key.key


def kind_of(body: EchoRequest) -> UsageKind:
    return "verify" if body.word == "verify" else "generate"


async def post(desk: Desk, path: str, key: str, body: Any = None, **headers: str) -> Any:
    """Send a request with an API key; a header's name has `_` for `-`."""
    async with desk.http() as http:
        sent = {"Authorization": f"Bearer {key}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        return await http.post(path, json=body or {"word": "x"}, headers=sent)


async def _number(desk: Desk) -> int:
    async with desk.guards.accounts.database.connection() as connection:
        row = await (await connection.execute("select count(*) from accounts")).fetchone()
    return row[0] if row else 0


@pytest.fixture(scope="package")
def servers() -> Iterator[Stack]:
    database_only = Service("gateway", replicas=0, database=True)
    with Stack(servers={"nats", "postgres"}, services=[database_only]) as running:
        yield running


@pytest.fixture
async def nats(servers: Stack) -> AsyncIterator[NatsBus]:
    async with bus.connect(servers.nats.url("gateway"), "gateway") as connection:
        yield connection


@pytest.fixture
async def database(servers: Stack) -> AsyncIterator[Database]:
    url = servers.postgres.url("gateway")
    async with postgres.connect(url, "gateway", "gateway", timeout_s=60) as connected:
        connected.pool.timeout = 60  # a slow machine must not cause a 503
        yield connected


async def no_webhooks(_: WebhooksRequest) -> Webhooks:
    return Webhooks(webhooks=[])


@pytest.fixture
async def desk(nats: NatsBus, database: Database, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setitem(samples.REQUESTS, "EchoRequest", {"word": "lily"})
    monkeypatch.setitem(samples.answers(), "Echo", {"word": "lily", "times": 1})
    policies = [Policy("api", 100_000), Policy("generate", 100_000), Policy("few", 3)]
    policies += [Policy(name, LOGINS) for name in ("register", "reset")]
    limits = Limits(nats, [*policies, *accounts.policies(LOGINS)])
    await limits.start()
    events = MemoryBus()
    events.answer(LIST_WEBHOOKS, no_webhooks)
    passwords, sessions = Passwords(), Sessions(database, events)
    encryption = Encryption([KEY])
    own = Accounts(database, passwords, limits, SecondFactor(database, encryption))
    guards = Guards(
        accounts=own,
        authentication=Authentication(database),
        sessions=sessions,
        deletion=Deletion(database, events, own, sessions),
        recovery=Recovery(
            database,
            events,
            passwords,
            sessions,
            smtp_url="",
            smtp_from="",
            public_url="http://gateway",
        ),
        limits=limits,
        idempotency=Idempotency(database),
        capacity=Capacity(max_at_once=50, max_per_account=5),
        generations=GenerationLog(database),
        usage=UsageCounts(database),
    )
    keyring = KeyRing(database, events)

    async def echo(call: Call, body: EchoRequest) -> Any:

        opened.calls.append((body.word, context.current.get().idempotency_key))
        if opened.answer is not None:
            return await opened.answer(call, body)
        return Echo(word=body.word, times=len(opened.calls))

    async def few(call: Call, body: EchoRequest) -> Any:
        return await echo(call, body)

    async def joined(call: Call, body: EchoRequest) -> Any:
        if call.joining:
            return Answer(b"{}", status=202, headers={"Location": "/v1/api/joined/1"})
        return await echo(call, body)

    async def harmless(call: Call, body: EchoRequest) -> Any:
        return await echo(call, body)

    async def many(call: Call, body: EchoRequest) -> Any:
        return Echo(word="", times=len(body.word))

    async def wait(call: Call, body: EchoRequest) -> Any:
        async def poll(_: float) -> Echo:
            return await echo(call, body)

        return await until(call, Echo(word="", times=0), lambda e: e.times > 0, poll, 600)

    common: dict[str, Any] = {
        "body": EchoRequest,
        "reply": Echo,
        "allows": "generate",
        "summary": "Echo",
        "tag": "Test",
    }
    endpoints = [
        Endpoint(
            method="POST", path="/echo", handler=echo, idempotent=True, kind=kind_of, **common
        ),
        Endpoint(
            method="POST",
            path="/few",
            handler=few,
            limits=("api", "few"),
            idempotent=True,
            **common,
        ),
        Endpoint(method="POST", path="/harmless", handler=harmless, harmless=always, **common),
        Endpoint(
            method="POST", path="/joined", handler=joined, idempotent=True, joins=always, **common
        ),
        Endpoint(method="POST", path="/wait", handler=wait, **common),
        Endpoint(method="POST", path="/many", handler=many, max_body_bytes=1_000_000, **common),
        *endpoints_of(
            AccountRoutes(guards),
            BenchmarkRoutes(events, guards),
            SecondFactorRoutes(own),
            HubTokenRoutes(HubTokens(database, events, encryption)),
            KeyRoutes(keyring),
            UsageRoutes(guards),
        ),
    ]
    gateway = Gateway(endpoints, guards, keyring, "http://gateway", checks={})
    opened = Desk(gateway, guards, keyring, events, [])
    return opened
