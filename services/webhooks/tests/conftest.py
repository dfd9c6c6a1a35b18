"""A real database, a receiver on this machine, and the parts of the service between them."""

import asyncio
import sys
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web

from common import postgres
from common.postgres import Database
from integration import external_database
from local.services import Service
from local.stack import Stack
from webhooks.deliveries import DeliveryStore
from webhooks.post import Poster
from webhooks.sender import Sender

sys.path.insert(0, str(Path(__file__).parent))
from webhook_receiver import LOOPBACK, SEALING, Receiver, Someone, new_someone


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    server = Receiver()
    app = web.Application()
    app.router.add_post("/{path:.*}", server.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}/hook"
    yield server
    await runner.cleanup()


@pytest.fixture(scope="package")
def url() -> Iterator[str]:
    with external_database.database() as other:
        if other:
            external_database.execute(other.url, "create schema webhooks")
            yield other.url
            return
    schema_only = Service("webhooks", replicas=0, database=True)
    with Stack(servers={"postgres"}, services=[schema_only]) as stack:
        yield stack.postgres.url("webhooks")


@pytest.fixture(scope="package")
async def database(url: str) -> AsyncIterator[Database]:
    async with postgres.connect(url, "webhooks", "webhooks") as connected:
        yield connected


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    async with Poster(LOOPBACK) as poster:
        yield poster


@pytest.fixture
def someone(database: Database) -> Someone:
    return new_someone(database)


@pytest.fixture
async def sender(database: Database, poster: Poster) -> AsyncIterator[Sender]:
    # The events of the tests have a fixed date, and must not be deleted for their age.
    sender = Sender(DeliveryStore(database, SEALING, 10), poster, timedelta(days=36_500))
    running = asyncio.create_task(sender.run())
    yield sender
    running.cancel()
    await asyncio.wait([running])
    await sender.finish()
