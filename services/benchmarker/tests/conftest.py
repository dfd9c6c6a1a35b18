"""Control, workers, queue and database as they really run, in front of the small Hub."""

import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from common import bus
from common.bus import NatsBus
from common.context import Context, current
from common.contracts.benchmarking import (
    BENCHMARK,
    OVER,
    WAIT_FOR_RUN,
    BenchmarkRequest,
    Run,
    RunWait,
)
from hub.testing import RunningHub
from local.services import Service
from local.stack import Stack

GENERATOR = Service("generator", hub=True)
CONTROL = Service("benchmarker", database=True)
WORKER = Service("worker", hub=True, module="benchmarker.worker")
MODEL = "lilypad/tiny-text-classification"

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


class Caller:
    """Somebody with an account, at the bus door."""

    numbers = itertools.count()

    def __init__(self, connection: NatsBus) -> None:
        self.bus = connection
        self.account = f"acct_{next(self.numbers)}"

    async def call(self, rpc, request):
        current.set(Context("req_test0000", self.account))
        return await self.bus.call(rpc, request)

    async def start(self, model: str = MODEL, **fields) -> Run:
        fields = {"batch_sizes": [1, 2], "iterations": 8, "warmup": 1, **fields}
        return await self.call(BENCHMARK, BenchmarkRequest(model_id=model, **fields))

    async def finish(self, run: Run) -> Run:
        while run.state not in OVER:
            run = await self.call(WAIT_FOR_RUN, RunWait(id=run.id))
        return run

    async def measure(self, model: str = MODEL, **fields) -> Run:
        run = await self.finish(await self.start(model, **fields))
        assert run.state == "succeeded", run.error
        return run


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


@pytest.fixture
async def waiting_caller(idle_stack: Stack) -> AsyncIterator[Caller]:
    async with bus.connect(idle_stack.nats.url("gateway"), "gateway") as opened:
        yield Caller(opened)
