"""A gateway in this process, on a real database and a real bus; only what it asks is made up."""

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from common import bus, context, postgres
from common.bus import NatsBus
from common.contracts import Input, Message
from common.postgres import Database
from common.testing import MemoryBus
from gateway import accounts
from gateway.accounts import Accounts
from gateway.app import Gateway
from gateway.authentication import Authentication
from gateway.capacity import Capacity
from gateway.counters import Policy
from gateway.endpoint import Call, Endpoint, Guards
from gateway.idempotency import Idempotency
from gateway.keyring import KeyRing, NewKey
from gateway.limits import Limits
from gateway.passwords import Passwords
from gateway.routes import accounts as account_routes
from gateway.sessions import Sessions
from gateway.waiting import until
from local.services import Service
from local.stack import Stack

LOGINS = 10_000


class Wish(Input):
    word: str = ""


class Echo(Message):
    word: str
    times: int


@dataclass
class Desk:
    """A gateway, and what its test endpoint has seen."""

    gateway: Gateway
    guards: Guards
    keyring: KeyRing
    events: MemoryBus
    calls: list[tuple[str, str]]
    answer: Callable[[Call, Wish], Any] | None = None

    def http(self, **options: Any) -> httpx2.AsyncClient:
        transport = httpx2.ASGITransport(self.gateway)
        return httpx2.AsyncClient(transport=transport, base_url="http://gateway", **options)

    async def key(self, **fields: Any) -> tuple[str, str]:
        """A new account's id and a key of it."""
        account = f"acc_{len(self.calls)}_{id(fields)}_{await _number(self)}"
        async with self.guards.accounts.database.connection() as connection:
            await connection.execute(
                "insert into accounts (id, email, password) values (%s, %s, '')",
                [account, f"{account}@example.com"],
            )
        made = await self.keyring.create(account, NewKey(name="test", **fields))
        return account, made.key


async def _number(desk: Desk) -> int:
    async with desk.guards.accounts.database.connection() as connection:
        row = await (await connection.execute("select count(*) from accounts")).fetchone()
    return row[0] if row else 0


@pytest.fixture(scope="session")
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
    async with postgres.connect(servers.postgres.url("gateway"), "gateway", "gateway") as connected:
        yield connected


@pytest.fixture
async def desk(nats: NatsBus, database: Database) -> Desk:
    policies = [Policy("api", 100_000), Policy("few", 3), Policy("register", LOGINS)]
    limits = Limits(nats, [*policies, *accounts.policies(LOGINS)])
    await limits.start()
    events = MemoryBus()
    guards = Guards(
        accounts=Accounts(database, Passwords(), limits),
        authentication=Authentication(database),
        sessions=Sessions(database, events),
        limits=limits,
        idempotency=Idempotency(database),
        capacity=Capacity(most=50, most_per_account=5),
    )
    keyring = KeyRing(database, events)

    async def echo(call: Call, body: Wish) -> Any:

        made.calls.append((body.word, context.current.get().idempotency_key))
        if made.answer is not None:
            return await made.answer(call, body)
        return Echo(word=body.word, times=len(made.calls))

    async def few(call: Call, body: Wish) -> Any:
        return await echo(call, body)

    async def many(call: Call, body: Wish) -> Any:
        return Echo(word="", times=len(body.word))

    async def wait(call: Call, body: Wish) -> Any:
        async def look(_: float) -> Echo:
            return await echo(call, body)

        return await until(call, Echo(word="", times=0), lambda e: e.times > 0, look, 600)

    common: dict[str, Any] = {
        "body": Wish,
        "reply": Echo,
        "allows": "generate",
        "summary": "Echo",
        "tag": "Test",
    }
    endpoints = [
        Endpoint(method="POST", path="/echo", handler=echo, idempotent=True, **common),
        Endpoint(
            method="POST",
            path="/few",
            handler=few,
            limits=("api", "few"),
            idempotent=True,
            **common,
        ),
        Endpoint(method="POST", path="/wait", handler=wait, **common),
        Endpoint(method="POST", path="/many", handler=many, most_bytes=1_000_000, **common),
        *account_routes.endpoints(guards.accounts, keyring, guards.sessions),
    ]
    gateway = Gateway(endpoints, guards, keyring, "http://gateway", checks={})
    made = Desk(gateway, guards, keyring, events, [])
    return made
