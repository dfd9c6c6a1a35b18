"""Fixtures: real control, workers, queue and database, with a small local Hub."""

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from common import bus
from common.bus import NatsBus
from hub.testing import RunningHub
from local.stack import Stack

sys.path.insert(0, str(Path(__file__).parent))
from benchmark_caller import CONTROL, GENERATOR, METRICS, WORKER, Caller

# One thread: on a busy machine, two would wait for each other.
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="package")
def hub() -> Iterator[RunningHub]:
    with RunningHub() as running:
        yield running


@pytest.fixture(scope="package")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache of fetched models, shared by tests."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="package")
def stack(hub: RunningHub, models: Path) -> Iterator[Stack]:
    """A stack with one worker, and with limits that no test reaches."""
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(models),
        "BENCHMARKS_PER_HOUR": "100000",
        "MAX_WAITING_PER_ACCOUNT": "100000",
        "ACK_WAIT_S": "2",
        "SWEEP_INTERVAL_S": "0.5",
        **ONE_THREAD,
    }
    services = (GENERATOR, CONTROL, METRICS, WORKER)
    with Stack(servers={"nats", "postgres"}, services=services, environment=environment) as running:
        yield running


@pytest.fixture(scope="package")
def idle_stack(hub: RunningHub) -> Iterator[Stack]:
    """A stack without a worker, in which runs wait, with default limits and a short queue."""
    environment = {"HF_ENDPOINT": hub.url, "MAX_WAITING": "40", "SWEEP_INTERVAL_S": "0.2"}
    services = (GENERATOR, CONTROL)
    with Stack(servers={"nats", "postgres"}, services=services, environment=environment) as running:
        yield running


@pytest.fixture(scope="package")
async def connection(stack: Stack) -> AsyncIterator[NatsBus]:
    async with bus.connect(stack.nats.url("gateway"), "gateway") as opened:
        yield opened


@pytest.fixture(scope="package")
def new_caller(connection: NatsBus) -> Callable[[], Caller]:
    return lambda: Caller(connection)


@pytest.fixture
async def new_reader(stack: Stack) -> AsyncIterator[Callable[[Caller], Caller]]:
    """Ask for a profile of a caller's own runs, as the generator does."""
    async with bus.connect(stack.nats.url("generator"), "generator") as opened:

        def new_reader(caller: Caller) -> Caller:
            reader = Caller(opened)
            reader.account = caller.account
            return reader

        yield new_reader


@pytest.fixture
async def follower(quick_stack: Stack):
    """A subscriber to the runs' events, as realtime is one; a module defines its `quick_stack`."""
    async with bus.connect(quick_stack.nats.url("realtime"), "realtime") as connection:
        yield connection


@pytest.fixture
async def letters(quick_stack: Stack):
    """The operator's view of JetStream, who reads dead letters."""
    async with bus.connect(quick_stack.nats.url("supervisor"), "supervisor") as connection:
        yield connection.client.jetstream()


@pytest.fixture(scope="package")
def caller(new_caller: Callable[[], Caller]) -> Caller:
    return new_caller()


@pytest.fixture
async def idle_connection(idle_stack: Stack) -> AsyncIterator[NatsBus]:
    async with bus.connect(idle_stack.nats.url("gateway"), "gateway") as opened:
        yield opened


@pytest.fixture
def waiting_caller(idle_connection) -> Caller:
    return Caller(idle_connection)


@pytest.fixture
def empty_queue(idle_stack: Stack) -> None:
    """End the runs that other tests of the same stack left waiting."""
    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as connection:
        connection.execute(
            "update benchmarker.runs set state = 'canceled', finished_at = now()"
            " where state = 'queued'"
        )
