"""Reconnections of a replica to the bus, during which an account's metrics changed."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from common import bus
from common.bus import NatsBus
from common.contracts.recording import MetricDescription
from common.postgres import Database
from common.testing import MemoryBus
from local.stack import Stack
from metrics import baselines, descriptions, reconnection
from metrics.baselines import Baselines
from metrics.handlers import Handlers

from .conftest import Caller, until


@pytest.fixture
def url() -> Iterator[str]:
    with Stack(servers={"nats"}, services=()) as stack:
        yield stack.nats.url("metrics")


@pytest.fixture
async def connection(url: str) -> AsyncIterator[NatsBus]:
    async with bus.connect(url, "metrics") as connection:
        yield connection


async def test_a_replica_reads_a_change_after_a_reconnection(
    caller: Caller, database: Database, connection: NatsBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconnection, "POLL_INTERVAL_S", 0.01)
    monkeypatch.setattr(descriptions, "DESCRIPTIONS_LIFETIME_S", 3_600.0)
    replica = Handlers(database, MemoryBus(), max_series=200)
    known, account = replica.watch.descriptions, caller.account
    work = asyncio.ensure_future(reconnection.watch(connection, replica.forget_all))
    for unit in ("s", "min"):
        before = dict(await known.get(account))
        await caller.handlers.watch.descriptions.store(account, {"x": MetricDescription(unit=unit)})
        await replica.usage.check(account, 1, late=False)
        await asyncio.sleep(0.1)
        assert await known.get(account) == before, "cached until the reconnection"
        count = connection.client.stats["reconnects"]
        await connection.client._process_op_err(ConnectionError("cut"))
        await until(lambda n=count: connection.client.stats["reconnects"] > n, "reconnected")
        await until(lambda: account not in known._cached, "the descriptions are evicted")
        assert account not in replica.usage._stored
        assert (await known.get(account))["x"].unit == unit
    work.cancel()


def test_all_baselines_expire_within_minutes_but_not_together(database: Database) -> None:
    """A replica that computed all baselines at once would raise alerts minutes late."""
    many = Baselines(database)
    models = [f"{n}" for n in range(1_000)]
    now = time.monotonic()
    many._cached = {("acc", model): (now + baselines.BASELINE_LIFETIME_S, {}) for model in models}
    many._cached["acc", "0"] = (now + 1.0, {})
    many.expire_all()
    lasting = [at - now for at, _ in many._cached.values()]
    assert lasting[0] <= 1.0
    assert max(lasting) <= baselines.YOUNG_LIFETIME_S + 5
    assert len({int(one / baselines.YOUNG_LIFETIME_S * 10) for one in lasting}) >= 10
