"""Fixtures: a real database, embedded or external (`integration.external_database`)."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest

from common import postgres
from common.context import Context, current
from common.contracts.monitoring import Monitoring, MonitorRequest
from common.contracts.recording import Record, Recorded, Samples
from common.postgres import Database
from common.testing import MemoryBus
from integration import external_database
from local.services import Service
from local.stack import Stack
from metrics import alerts, rollups
from metrics.handlers import Handlers

SCHEMA = "metrics"
# A policy of TimescaleDB runs for milliseconds in tests.
MAX_DROPS, DROP_PAUSE_S = 100, 0.1


async def until(true: Callable[[], Any], what: str) -> None:
    """Wait for a condition; fail if it does not come true in time."""
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, f"in vain: {what}"
        await asyncio.sleep(0.01)


async def drop(connection: Any, statement: str) -> None:
    """Drop an object that a TimescaleDB policy may be using."""
    for attempt in range(1, MAX_DROPS + 1):
        try:
            await connection.execute(statement)
        except psycopg.errors.InternalError_:  # a policy ran just then
            if attempt == MAX_DROPS:
                raise
            await asyncio.sleep(DROP_PAUSE_S)
        else:
            return


@dataclass(frozen=True)
class Place:
    """A schema of a database; `owner`: URL of the role that creates schemas, if different."""

    url: str
    schema: str
    owner: str = ""

    @property
    def options(self) -> str:
        return f"-c search_path={self.schema} -c client_encoding=utf8"


@pytest.fixture(scope="package")
def place() -> Iterator[Place]:
    with external_database.database() as other:
        if other:
            external_database.execute(other.url, f"create schema {SCHEMA}")
            yield Place(other.url, SCHEMA)
            return
    schema_only = Service(SCHEMA, replicas=0, database=True)
    with Stack(servers={"postgres"}, services=[schema_only]) as stack:
        yield Place(stack.postgres.url(SCHEMA), SCHEMA, owner=stack.postgres.url())


@pytest.fixture(scope="package")
async def database(place: Place) -> AsyncIterator[Database]:
    async with postgres.connect(place.url, place.schema, "metrics") as connected:
        yield connected


@pytest.fixture
async def empty(place: Place, database: Database) -> AsyncIterator[Place]:
    """An empty schema, created by the owner role if that is not the tests' own role."""
    owner = place.owner or place.url
    schema = f"metrics_{secrets.token_hex(4)}"
    async with await psycopg.AsyncConnection.connect(owner, autocommit=True) as connection:
        await connection.execute(f"create schema {schema}")
        yield Place(owner, schema)
        await drop(connection, f"drop schema {schema} cascade")


@contextlib.asynccontextmanager
async def connected(place: Place) -> AsyncIterator[Any]:
    async with await psycopg.AsyncConnection.connect(
        place.url, options=place.options, autocommit=True
    ) as connection:
        yield connection


async def has_timescale(connection: Any) -> bool:
    cursor = await connection.execute("select timescale_schema() is not null")
    return await cursor.fetchone() == (True,)


class Caller:
    """An account that calls the handlers directly."""

    def __init__(self, handlers: Handlers) -> None:
        self.handlers = handlers
        self.account = f"acc_{secrets.token_hex(6)}"

    @contextlib.contextmanager
    def _asking(self, key: str = "", deadline: float | None = None) -> Iterator[None]:
        reset = current.set(Context("request", self.account, deadline, idempotency_key=key))
        try:
            yield
        finally:
            current.reset(reset)

    async def call(
        self, handler: Any, request: Any, key: str = "", deadline: float | None = None
    ) -> Any:
        with self._asking(key, deadline):
            return await handler(request)

    async def record(self, *records: dict[str, Any], key: str = "") -> Recorded:
        content = Samples.from_records(Record.model_validate(record) for record in records)
        recorded: Recorded = await self.call(self.handlers.record, content, key)
        return recorded

    async def monitor(
        self, model: str = "m", deadline: float | None = None, **more: Any
    ) -> Monitoring:
        request = MonitorRequest(model_id=model, **more)
        answer: Monitoring = await self.call(self.handlers.monitor, request, deadline=deadline)
        # Through its wire form, as a caller receives it.
        return Monitoring.model_validate_json(answer.model_dump_json())


async def settled(caller: Caller) -> None:
    """Wait until all recorded samples have been published and evaluated."""
    handlers = caller.handlers
    await until(
        lambda: not (any(handlers.watch._noted.values()) or handlers.watch.evaluating),
        "everything is looked at",
    )


@pytest.fixture
def bus() -> MemoryBus:
    return MemoryBus()


async def _no_sweep(_: alerts.Watch) -> None: ...


@pytest.fixture
async def handlers(
    database: Database, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Handlers]:
    # Tests wait for it many times over.
    monkeypatch.setattr(alerts, "EVALUATE_INTERVAL_S", 0.02)
    # The sweep would regard old samples as silence; tests of silence run it themselves.
    monkeypatch.setattr(alerts.Watch, "sweep", _no_sweep)
    handlers = Handlers(database, bus, max_series=200)
    work = asyncio.ensure_future(handlers.run())
    yield handlers
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


@pytest.fixture
def caller(handlers: Handlers) -> Caller:
    return Caller(handlers)


@pytest.fixture
async def roll(place: Place) -> AsyncIterator[Any]:
    """Bring the rollups up to date, without pauses."""
    async with await psycopg.AsyncConnection.connect(
        place.url, options=place.options, autocommit=True
    ) as connection:

        async def roll(*, rest: bool = False) -> None:
            if not rest:
                await connection.execute("update stale set since = since - interval '1 hour'")
            rolling = await rollups.load(connection)
            while await rolling.advance() or await rolling.repair():
                pass

        yield roll
