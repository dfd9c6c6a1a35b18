import os
from collections.abc import AsyncIterator, Iterator

import pytest

from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from hub.testing import RunningHub

# One thread, set before torch is imported: the models are tiny, and on a busy machine several
# threads that wait for each other take a hundred times as long.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="package")
def hub_process() -> Iterator[RunningHub]:
    with RunningHub() as running:
        yield running


@pytest.fixture
def hub(hub_process: RunningHub) -> RunningHub:
    """Return the demo Hub, healthy and with an empty log."""
    hub_process.heal()
    hub_process.forget()
    return hub_process


@pytest.fixture
async def handlers(hub: RunningHub) -> AsyncIterator[Handlers]:
    client = Hub(hub.url)
    yield Handlers(client, Settings(hf_endpoint=hub.url))
    await client.close()
