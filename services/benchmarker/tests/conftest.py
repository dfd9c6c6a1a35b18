"""Control, workers, queue and database as they really run, in front of the small Hub."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from common import bus
from common.bus import NatsBus
from hub.testing import RunningHub
from local.stack import Stack

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_caller import CONTROL, GENERATOR, WORKER, Caller

# One thread: on a machine that does other things too, two wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="session")
def hub() -> Iterator[RunningHub]:
    with RunningHub() as running:
        yield running


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models that were fetched are kept between tests."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def stack(hub: RunningHub, models: Path) -> Iterator[Stack]:
    """With one worker, and limits that are not reached."""
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(models),
        "BENCHMARKS_PER_HOUR": "100000",
        "ACK_WAIT": "2",
        "SWEEP_INTERVAL": "0.5",
        **ONE_THREAD,
    }
    services = (GENERATOR, CONTROL, WORKER)
    with Stack(servers={"nats", "postgres"}, services=services, environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
def idle_stack(hub: RunningHub) -> Iterator[Stack]:
    """Without a worker: what is accepted waits. Limits as they are, but for a short queue."""
    environment = {"HF_ENDPOINT": hub.url, "MOST_WAITING": "40", "SWEEP_INTERVAL": "0.2"}
    services = (GENERATOR, CONTROL)
    with Stack(servers={"nats", "postgres"}, services=services, environment=environment) as running:
        yield running


@pytest.fixture(scope="session")
async def connection(stack: Stack) -> AsyncIterator[NatsBus]:
    async with bus.connect(stack.nats.url("gateway"), "gateway") as opened:
        yield opened


@pytest.fixture(scope="session")
def new_caller(connection: NatsBus) -> Callable[[], Caller]:
    return lambda: Caller(connection)


@pytest.fixture(scope="session")
def caller(new_caller: Callable[[], Caller]) -> Caller:
    return new_caller()


@pytest.fixture(scope="session")
async def idle_connection(idle_stack: Stack) -> AsyncIterator[NatsBus]:
    async with bus.connect(idle_stack.nats.url("gateway"), "gateway") as opened:
        yield opened
