"""Snapshots shared among the generator's replicas, on a real bus, with a test Hub."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from common import bus
from common.bus import NatsBus
from common.contracts import address
from common.contracts.generation import GenerateRequest, Module
from common.errors import HubUnavailable, ModelNotFound, ModelRefused
from generator import snapshots
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from generator.shared import SharedSnapshots
from hub.app import MEMBER_TOKEN, STRANGER_TOKEN
from hub.catalogue import MODELS
from hub.testing import RunningHub
from integration import small_disk
from local.stack import Stack

CLASSIFIER = "lilypad/tiny-text-classification"
GENERATOR = "lilypad/tiny-text-generation"
Start = Callable[[], Handlers]


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    with Stack(servers={"nats"}, services=()) as running:
        yield running


@pytest.fixture
async def connection(servers: Stack) -> AsyncIterator[NatsBus]:
    async with bus.connect(servers.nats.url("generator"), "generator") as opened:
        yield opened


@pytest.fixture
async def start(connection: NatsBus, hub: RunningHub) -> AsyncIterator[Start]:
    """Return a function that starts replicas which share their snapshots within this test."""
    name = secrets.token_hex(8)
    started: list[Handlers] = []

    def start() -> Handlers:
        started.append(Handlers(Hub(hub.url), Settings(), shared=SharedSnapshots(connection, name)))
        return started[-1]

    yield start
    for handlers in started:
        await handlers.snapshots.hub.close()


async def generate(handlers: Handlers, model: str = CLASSIFIER, revision: str = "main") -> Module:
    module = await handlers.generate(GenerateRequest(model_url=model, revision=revision))
    assert handlers.snapshots.shared
    await asyncio.gather(*handlers.snapshots.shared.writing)
    return module


async def test_a_replica_serves_another_ones_snapshot_while_the_hub_is_unavailable(
    start: Start, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = await generate(start())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 600)
    later = start()
    with hub.faults("status", status=503):
        for _ in range(2 * snapshots.MAX_FAILURES):
            module = await generate(later)
            assert module.files == before.files
            assert module.validation.status == "warnings"
            assert "10 min ago" in module.validation.errors[0]
        pinned = await generate(start(), revision=before.model.commit)
        assert pinned.validation.status == "passed"  # a commit is immutable
        with pytest.raises(HubUnavailable):
            await generate(start(), GENERATOR)


async def test_a_snapshot_older_than_a_day_is_not_served(
    start: Start, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    await generate(start())
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + snapshots.STALE + 1)
    with hub.faults("status", status=503), pytest.raises(HubUnavailable):
        await generate(start())


async def test_a_commit_read_by_another_replica_costs_one_request(
    start: Start, hub: RunningHub
) -> None:
    first = await generate(start())
    hub.forget()
    assert await generate(start()) == first
    assert ["/api/" in request.path for request in hub.requests] == [True]


async def test_a_snapshot_is_not_shared_between_tokens(
    start: Start, connection: NatsBus, hub: RunningHub
) -> None:
    member = start()
    await member.snapshots.hub.close()
    member.snapshots.hub = Hub(hub.url, MEMBER_TOKEN)
    member.snapshots.open_models = frozenset(["lilypad/tiny-gated"])
    member.snapshots.shared = SharedSnapshots(connection, f"{hub.url} {MEMBER_TOKEN}")
    await generate(member, "lilypad/tiny-gated")
    stranger = start()
    stranger.snapshots.shared = SharedSnapshots(connection, f"{hub.url} {STRANGER_TOKEN}")
    with pytest.raises(ModelRefused):
        await generate(stranger, "lilypad/tiny-gated")


async def test_every_shared_snapshot_is_restored_unchanged(start: Start, hub: RunningHub) -> None:
    handlers = start()
    for model in MODELS:
        with contextlib.suppress(ModelNotFound, ModelRefused):
            await handlers.snapshots.read(address.parse(model.id))
    kept = list(handlers.snapshots._kept.values())
    assert len(kept) > 10
    assert handlers.snapshots.shared
    await asyncio.gather(*handlers.snapshots.shared.writing)
    for snapshot in kept:
        restored = await handlers.snapshots.shared.find(snapshot.id, snapshot.commit)
        assert restored
        assert restored[0] == snapshot


async def test_a_snapshot_of_another_version_or_hub_is_ignored(
    start: Start, connection: NatsBus, hub: RunningHub
) -> None:
    handlers = start()
    await generate(handlers)
    handlers = start()
    handlers.snapshots.shared = SharedSnapshots(connection, "another")
    with hub.faults("status", status=503), pytest.raises(HubUnavailable):
        await generate(handlers)


async def test_a_malformed_snapshot_on_the_bus_is_ignored(
    start: Start, connection: NatsBus, hub: RunningHub
) -> None:
    handlers = start()
    await generate(handlers)
    assert handlers.snapshots.shared
    for content in (b"", b"[]", b'[1, {"files": []}]', b"\xff"):
        subject = handlers.snapshots.shared.subject(CLASSIFIER, "main")
        await connection.request(subject, content, 30)
        assert await handlers.snapshots.shared.find(CLASSIFIER, "main") is None
    with hub.faults("status", status=503), pytest.raises(HubUnavailable):
        await generate(start())


async def test_a_replica_without_the_bus_still_serves_its_own_snapshots(
    start: Start, servers: Stack, hub: RunningHub
) -> None:
    handlers = start()
    servers.stop("nats")
    try:
        await generate(handlers)
        with hub.faults("status", status=503):
            handlers.snapshots.clock = lambda: time.monotonic() + 600
            assert (await generate(handlers)).validation.status == "warnings"
            with pytest.raises(HubUnavailable):
                await generate(handlers, GENERATOR)
    finally:
        servers.processes["nats"].start()
        await asyncio.to_thread(servers.wait_until_ready, "nats")


async def test_snapshots_are_shared_again_after_the_disk_of_the_bus_was_full(
    tmp_path: Path, start: Start
) -> None:
    handlers = start()
    snapshot, _ = await handlers.snapshots.read(address.parse(CLASSIFIER))
    async with (
        small_disk.bus(tmp_path) as small,
        bus.connect(small.server.url("generator"), "generator") as connection,
    ):
        shared = SharedSnapshots(connection, "reader")

        async def keep(id: str) -> bool:
            shared.keep(id, "main", snapshot)
            await asyncio.gather(*shared.writing)
            return await shared.find(id, "main") is not None

        async with asyncio.timeout(60):
            while not await keep("before/full"):
                await asyncio.sleep(0.1)
            ballast = small_disk.fill(small.disk)
            number = 0
            while await shared.find("before/full", "main"):  # the last page takes some snapshots
                await keep(f"full/{number}")
                number += 1
            ballast.unlink()
            while not await keep("after/full"):
                await asyncio.sleep(0.1)
