"""A worker that uses its NATS user against the runs of other workers."""

import asyncio
import math
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from benchmark_caller import Caller, hear, silence, take_over
from nats.aio.msg import Msg

from benchmarker.deliveries import Deliveries
from benchmarker.postings import Postings
from benchmarker.sealing import Opener
from common import bus, postgres
from common.bus import NatsBus
from common.contracts.benchmarking import CANCEL_RUN, GET_RUN, Failure, Run, RunName
from common.contracts.hub import HUB_TOKEN, HubToken
from common.contracts.measuring import END, REPORT, TAKE, End, Report, SizeFacts, Take
from common.errors import ServiceError
from local.stack import Stack

HONEST, HOSTILE = "honest/1", "hostile/1"
FAILURE = Failure(code=1004, status=500, message="ended by a hostile worker", reason="crashed")


@pytest.fixture
async def worker(idle_stack: Stack) -> AsyncIterator[NatsBus]:
    """A connection of the user that all workers share."""
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as connection:
        yield connection


@pytest.fixture
async def held(empty_queue: None, waiting_caller: Caller, worker: NatsBus) -> AsyncIterator[Run]:
    """A run that an honest worker has taken."""
    run = await waiting_caller.start()
    assert (await worker.call(TAKE, Take(id=run.id, worker=HONEST))).run
    yield run
    await waiting_caller.call(CANCEL_RUN, RunName(id=run.id))


def execute(stack: Stack, statement: str, *values: object) -> list[tuple]:
    with psycopg.connect(stack.postgres.url("benchmarker")) as database:
        cursor = database.execute(statement, values)
        return cursor.fetchall() if cursor.description else []


async def test_a_worker_can_neither_take_nor_report_nor_end_a_live_workers_run(
    idle_stack, waiting_caller, worker, held
) -> None:
    hear(idle_stack, held.id)
    ticket = await worker.call(TAKE, Take(id=held.id, worker=HOSTILE))
    assert (ticket.run, ticket.held) == (False, True)
    size = SizeFacts(batch_size=1)
    for what in ({"size": size}, {"given_back": True}, {}):
        report = Report(id=held.id, worker=HOSTILE, **what)
        assert not (await worker.call(REPORT, report)).run
    await worker.call(END, End(id=held.id, worker=HOSTILE, error=FAILURE))
    assert (await worker.call(REPORT, Report(id=held.id, worker=HONEST, size=size))).run
    assert (await waiting_caller.call(GET_RUN, RunName(id=held.id))).state == "running"
    # Only a silent worker loses its run.
    silence(idle_stack, held.id)
    assert (await worker.call(REPORT, Report(id=held.id, worker=HONEST))).run  # its heartbeat
    heard = "select heard_at > now() - interval '10 seconds' from runs where id = %s"
    assert execute(idle_stack, heard, held.id) == [(True,)]
    assert (await take_over(idle_stack, worker, held.id, "next/1")).run
    assert not (await worker.call(REPORT, Report(id=held.id, worker=HONEST))).run


async def test_a_lost_message_of_a_running_run_is_posted_again_only_once_its_worker_is_silent(
    idle_stack, waiting_caller, worker, held
) -> None:
    later = await waiting_caller.start()

    async def posted(run: Run) -> int:
        [(number,)] = execute(idle_stack, "select published from runs where id = %s", run.id)
        return number

    async def lose(run: Run) -> None:
        """Remove a run's message, and wait until the sweep has read all runs."""
        [(sequence,)] = execute(idle_stack, "select sequence from runs where id = %s", run.id)
        user = "benchmarker"
        async with bus.connect(idle_stack.nats.url(user), user) as control:
            await control.client.jetstream().delete_msg("JOBS", sequence)

    hear(idle_stack, held.id)
    await lose(held)
    await lose(later)
    while not await posted(later):
        await asyncio.sleep(0.05)
    assert not await posted(held)
    silence(idle_stack, held.id)
    while not await posted(held):
        await asyncio.sleep(0.05)
    await waiting_caller.call(CANCEL_RUN, RunName(id=later.id))


async def test_time_in_which_control_received_no_reports_does_not_count_as_silence(
    idle_stack, held
) -> None:
    hour_s = 3600.0
    execute(
        idle_stack, "update runs set heard_at = now() - interval '1 day' where id = %s", held.id
    )
    connection: Any = SimpleNamespace(connected_at=-math.inf)
    url = idle_stack.postgres.url("benchmarker")
    async with postgres.connect(url, "benchmarker", "benchmarker") as database:
        deliveries = Deliveries(database, connection, ack_wait_s=3 * hour_s)

        async def is_live() -> bool:
            posted = await Postings(database).posted(deliveries.hearing)
            ticket, _ = await deliveries.take(held.id, HOSTILE)
            assert not (ticket.held and held.id in {posting.id for posting in posted})
            return ticket.held

        assert await is_live()  # control does not listen yet
        deliveries.listen()
        assert await is_live()
        connection.connected_at = deliveries.listening_at
        deliveries.listening_at -= 3 * hour_s
        assert await is_live()  # the bus was away
        connection.connected_at -= 3 * hour_s
        assert not await is_live()


@pytest.mark.usefixtures("empty_queue")
async def test_other_workers_cannot_read_the_hub_token_of_a_run(
    idle_stack, idle_connection, waiting_caller, worker
) -> None:
    async def answer(message: Msg) -> None:
        await message.respond(HubToken(token="hf_secret").model_dump_json().encode())

    async def overhear(message: Msg) -> None:
        overheard.append(message.data)

    run = await waiting_caller.start()
    own = "update runs set work = jsonb_set(work, '{readBy}', '\"account\"') where id = %s"
    execute(idle_stack, own, run.id)
    overheard: list[bytes] = []
    opener = Opener()
    asked = await idle_connection.client.subscribe(HUB_TOKEN.subject, cb=answer)
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as hostile:
        await hostile.client.subscribe("_INBOX.worker.>", cb=overhear)
        await hostile.client.flush()
        with pytest.raises(ServiceError, match="update the worker"):
            await worker.call(TAKE, Take(id=run.id, worker=HOSTILE))
        take = Take(id=run.id, worker=HONEST, sealing_key=opener.key)
        ticket = await worker.call(TAKE, take)
        while not any(b"sealedHubToken" in data for data in overheard):
            await asyncio.sleep(0.01)
    await asked.unsubscribe()
    assert ticket.hub_token is None
    assert opener.open(ticket.sealed_hub_token) == "hf_secret"
    assert not any(b"hf_secret" in data for data in overheard)
    await waiting_caller.call(CANCEL_RUN, RunName(id=run.id))
