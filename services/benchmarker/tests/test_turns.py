"""The order of waiting runs, and their estimated starts."""

import math
from dataclasses import dataclass
from itertools import pairwise

import psycopg
import pytest
from benchmark_caller import MODEL, Caller

from benchmarker import turns
from benchmarker.runs import RunStore
from benchmarker.turns import left, remaining, starts_in
from common import bus
from common.contracts.benchmarking import (
    CANCEL_RUN,
    GET_RUN,
    QUOTE,
    RUN_LIMITS,
    QuoteRequest,
    RunLimit,
    RunLimitsRequest,
    RunName,
)
from common.contracts.measuring import ANNOUNCE, REPORT, TAKE, Announcement, Report, Samples, Take
from common.errors import RateLimited
from common.postgres import Database
from local.stack import Stack


@dataclass
class Running:
    """A running run, whose delivery has done `steps_done` of 16 steps."""

    elapsed_s: float
    measured_s: float | None = None
    since_progress_s: float | None = None
    steps_done: int = 0

    @property
    def steps_left(self) -> int:
        return 16 - self.steps_done


@pytest.mark.parametrize(
    ("run", "expected_s"),
    [
        (Running(0), 30),  # the usual duration of its kind
        (Running(10), 20),
        (Running(60), 15),  # a quarter of its time so far: it is late
        (Running(10, 4, 0, 4), 12),  # a quarter took four seconds
        (Running(15, 4, 5, 4), 7),
        (Running(50, 4, 40, 4), 10),  # no step for 40 s
        (Running(45, 20, 0, 16), 0),
        (Running(10, -3, 0, -2), 20),  # an earlier delivery's steps do not count
    ],
)
def test_a_running_runs_remaining_time_follows_its_progress(run, expected_s) -> None:
    assert remaining(run, 30) == expected_s


def test_the_remaining_time_of_a_late_run_never_reaches_zero() -> None:
    estimates_s = [left(30, elapsed_s) for elapsed_s in range(300)]
    changes_s = [after - before for before, after in pairwise(estimates_s)]
    assert min(estimates_s) > 0
    assert all(-1 <= change_s <= 0.25 for change_s in changes_s)


def test_waiting_runs_start_as_workers_become_free() -> None:
    assert starts_in([], [], workers=1) == 0
    assert starts_in([], [20, 5], workers=2) == 5
    assert starts_in([30], [20, 5], workers=2) == 20
    assert starts_in([30, 30, 30], [20], workers=2) == 50


@pytest.mark.usefixtures("empty_queue")
async def test_accounts_take_turns_regardless_of_their_waiting_runs(idle_connection) -> None:
    many, few = Caller(idle_connection), Caller(idle_connection)
    flood = [await many.start() for _ in range(5)]
    quote = await few.call(QUOTE, QuoteRequest(model_id=MODEL))
    single = await few.start()
    assert (quote.queue.position, quote.last) == (single.queue.position, None)
    second = await many.call(GET_RUN, RunName(id=flood[1].id))
    last = await many.call(GET_RUN, RunName(id=flood[-1].id))
    single = await few.call(GET_RUN, RunName(id=single.id))
    # Two messages of each class are queued in advance; the others follow by turns.
    assert single.queue.position < last.queue.position
    assert single.queue.position <= second.queue.position + 1
    for caller, run in ((few, single), *((many, run) for run in flood)):
        await caller.call(CANCEL_RUN, RunName(id=run.id))


@pytest.mark.usefixtures("empty_queue")
async def test_the_places_of_listed_runs_are_consistent_while_a_run_starts(
    idle_stack, idle_connection, monkeypatch
) -> None:
    caller = Caller(idle_connection)
    runs = [await caller.start() for _ in range(3)]
    url, place = idle_stack.postgres.url("benchmarker"), turns.place

    async def after_one_is_taken(*arguments):
        with psycopg.connect(url) as database:
            database.execute(
                "update benchmarker.runs set state = 'running' where id = %s", [runs[0].id]
            )
        return await place(*arguments)

    monkeypatch.setattr(turns, "place", after_one_is_taken)
    database = Database(url, "benchmarker")
    async with database.pool:
        listed = await RunStore(database).newest(caller.account, 10, None)
    assert [run.queue.position for run in listed] == [3, 2, 1]
    for run in runs:
        await caller.call(CANCEL_RUN, RunName(id=run.id))


def start_an_hour_earlier(idle_stack: Stack, caller: Caller) -> None:
    """Date a caller's runs back, so that its hourly limit is free again."""
    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as connection:
        connection.execute(
            "update benchmarker.runs set created_at = now() - interval '61 minutes'"
            " where account = %s",
            [caller.account],
        )


async def limits_of(caller: Caller) -> list[RunLimit]:
    return (await caller.call(RUN_LIMITS, RunLimitsRequest())).limits


@pytest.mark.usefixtures("empty_queue")
async def test_a_late_or_slow_run_delays_the_estimates_of_later_runs(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    first, second = await caller.start(), await caller.start()
    machine = {"name": "CPU", "device_class": "cpu", "memory": 24_000.0, "dtypes": ["float32"]}

    async def estimate_s(change: str) -> float:
        """Change a running run's row; return the estimated start of the run behind it."""
        with psycopg.connect(idle_stack.postgres.url("benchmarker")) as database:
            database.execute(f"update benchmarker.runs set {change} where id = %s", [first.id])
        return (await caller.call(GET_RUN, RunName(id=second.id))).queue.estimate_seconds

    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as database:
        database.execute("delete from benchmarker.workers")
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as worker:
        await worker.call(ANNOUNCE, Announcement(worker="w", **machine))
        await worker.call(TAKE, Take(id=first.id, worker="w"))
        began = "now() - interval '470 seconds'"
        late_s = await estimate_s(
            f"started_at = {began}, stages = jsonb_build_object('fetching', {began})"
        )
        assert late_s >= 470 / 4
        await worker.call(REPORT, Report(id=first.id, worker="w", stage="measuring"))
        half = Samples(round=0, batch_size=1, wall=[1_000_000] * 8)
        await worker.call(REPORT, Report(id=first.id, worker="w", samples=half))
        # Half of its calls took 40 seconds, and so will the other half, unless it is late again.
        for since_s, least_s, most_s in ((200, 50, math.inf), (20, 8, 20), (0, 8, 40)):
            progressed = f"now() - interval '{since_s} seconds'"
            measuring = f"jsonb_build_object('measuring', {progressed} - interval '40 seconds')"
            change = f"progressed_at = {progressed}, stages = stages || {measuring}"
            assert least_s <= await estimate_s(change) <= most_s
        # Another delivery loads the model again.
        await worker.call(TAKE, Take(id=first.id, worker="w"))
        assert (await caller.call(GET_RUN, RunName(id=second.id))).queue.estimate_seconds > 5
    for run in (first, second):
        await caller.call(CANCEL_RUN, RunName(id=run.id))


@pytest.mark.usefixtures("empty_queue")
async def test_an_accounts_waiting_runs_are_limited_and_its_remaining_runs_are_reported(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    assert [one.left for one in await limits_of(caller)] == [5, 20]
    runs = [await caller.start() for _ in range(5)]
    benchmarks, _ = await limits_of(caller)
    assert (benchmarks.policy, benchmarks.limit, benchmarks.window) == ("benchmark", 5, 3600)
    assert benchmarks.left == 0
    assert benchmarks.reset is not None
    assert 3500 < benchmarks.reset <= 3600
    start_an_hour_earlier(idle_stack, caller)
    assert [one.left for one in await limits_of(caller)] == [5, 20]
    with pytest.raises(RateLimited, match="may wait"):
        await caller.start()
    for run in runs:
        await caller.call(CANCEL_RUN, RunName(id=run.id))


@pytest.mark.usefixtures("empty_queue")
async def test_new_accounts_of_one_network_share_the_limit_and_turns_of_one_account(
    idle_connection,
) -> None:
    neighbours = [Caller(idle_connection, "203.0.113.9") for _ in range(3)]
    other = Caller(idle_connection)
    runs = [(caller, await caller.start()) for caller in (*neighbours, *neighbours[:2])]
    with pytest.raises(RateLimited, match="new accounts at this network address may wait"):
        await neighbours[2].start()
    quotes = [
        await caller.call(QUOTE, QuoteRequest(model_id=MODEL)) for caller in (neighbours[2], other)
    ]
    assert quotes[0].queue.position == 6
    assert quotes[1].queue.position <= 3, "at most two messages are queued in advance"
    runs.append((other, await other.start()))
    assert runs[-1][1].queue.position <= 3
    for caller, run in runs:
        await caller.call(CANCEL_RUN, RunName(id=run.id))


@pytest.mark.usefixtures("empty_queue")
async def test_a_new_account_that_calls_from_many_networks_has_the_limit_of_one_account(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    runs = []
    for number in range(5):
        caller.tenant = f"203.0.113.{number}"
        runs.append(await caller.start())
    start_an_hour_earlier(idle_stack, caller)
    caller.tenant = "203.0.113.99"
    with pytest.raises(RateLimited, match="this account may wait; cancel one"):
        await caller.start()
    for run in runs:
        await caller.call(CANCEL_RUN, RunName(id=run.id))
