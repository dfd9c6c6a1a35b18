"""A caller of the benchmarker on the bus, with the services that it depends on."""

import asyncio
import itertools

import psycopg

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
from common.contracts.generation import ModelFacts
from common.contracts.measuring import TAKE, Take, Ticket
from local.services import Service
from local.stack import Stack

GENERATOR = Service("generator", hub=True)
CONTROL = Service("benchmarker", database=True)
METRICS = Service("metrics", database=True)
WORKER = Service("worker", hub=True, module="benchmarker.worker")
MODEL = "lilypad/tiny-text-classification"
FACTS = ModelFacts(
    id=MODEL,
    commit="0" * 40,
    task="text-classification",
    library="transformers",
    license=None,
    parameters=1000,
    weight_bytes=4000,
    vram_mib=0,
    vram_source="headers",
)


def silence(stack: Stack, run: str) -> None:
    """Make the delivery that holds the run silent, so that another one may take the run."""
    with psycopg.connect(stack.postgres.url("benchmarker")) as database:
        database.execute(
            "update runs set heard_at = now() - interval '11 seconds' where id = %s", [run]
        )


def hear(stack: Stack, run: str) -> None:
    """Keep the delivery that holds the run alive for an hour, so that slow tests pass."""
    with psycopg.connect(stack.postgres.url("benchmarker")) as database:
        database.execute(
            "update runs set heard_at = now() + interval '1 hour' where id = %s", [run]
        )


async def take_over(stack: Stack, worker: NatsBus, run: str, name: str) -> Ticket:
    """Take a run from a silent delivery; control that has just started waits for its reports."""
    silence(stack, run)
    while (ticket := await worker.call(TAKE, Take(id=run, worker=name))).held:
        await asyncio.sleep(0.05)
    return ticket


class Caller:
    """A caller with an account, on the bus."""

    numbers = itertools.count()

    def __init__(self, connection: NatsBus, tenant: str = "") -> None:
        self.bus = connection
        self.tenant = tenant
        self.account = f"acct_{next(self.numbers)}"

    async def call(self, rpc, request):
        current.set(Context("req_test0000", self.account, tenant=self.tenant))
        # NATS disconnects a client whose event loop was blocked while other tests ran.
        await asyncio.sleep(0.01)
        while not self.bus.available:
            await asyncio.sleep(0.05)
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
