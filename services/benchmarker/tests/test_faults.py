"""Runs despite killed workers, lost messages and unreadable jobs."""

import asyncio
import contextlib
import os
import random
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import psycopg
import pytest
from benchmark_caller import CONTROL, GENERATOR, METRICS, Caller, silence
from nats.js.errors import NotFoundError
from quick_model import BROKEN, DRAINED, MOVED, POISON, SLOW, STUCK, TOO_BIG

from benchmarker.search import SEARCH_CALLS
from benchmarker.settings import WorkerSettings
from benchmarker.worker import __main__ as worker_process
from benchmarker.worker.__main__ import MAX_LOST_DELIVERIES, Worker, describe
from benchmarker.worker.child import OutOfMemory
from benchmarker.worker.sandbox import Sandbox
from common import bus, jobs
from common.context import Context
from common.contracts.benchmarking import (
    CANCEL_RUN,
    GET_RUN,
    OVER,
    PROGRESSED,
    BenchmarkProgress,
    RunName,
)
from common.contracts.measuring import Announcement
from common.jobs import DEAD, REASON, STREAM
from common.testing import MemoryBus
from hub.testing import RunningHub
from local.services import Service
from local.stack import Stack

QUICK = Service("worker", replicas=2, module="quick_worker")
JOBS = 16
UNCONFINED = Sandbox((), (), ())
KILLS = 6


@pytest.fixture(scope="module")
def quick_stack(hub: RunningHub, models: Path) -> Iterator[Stack]:
    """A stack of two workers with a fake model."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(models),
        "PYTHONPATH": path,
        "BENCHMARKS_PER_HOUR": "100000",
        "MAX_WAITING": "100000",
        "MAX_WAITING_PER_ACCOUNT": "100000",
        "ACK_WAIT_S": "2",
        "SWEEP_INTERVAL_S": "0.2",
    }
    services = (GENERATOR, CONTROL, METRICS, QUICK)
    with Stack(servers={"nats", "postgres"}, services=services, environment=environment) as running:
        yield running


@pytest.fixture
async def caller(quick_stack: Stack) -> AsyncIterator[Caller]:
    async with bus.connect(quick_stack.nats.url("gateway"), "gateway") as connection:
        yield Caller(connection)


@pytest.fixture
async def queue(quick_stack: Stack):
    """Control's view of JetStream."""
    async with bus.connect(quick_stack.nats.url("benchmarker"), "benchmarker") as connection:
        yield connection.client.jetstream()


@pytest.mark.long
async def test_jobs_survive_workers_killed_at_random(quick_stack, caller, follower) -> None:
    """No job is lost, and none runs twice."""
    ends: Counter[str] = Counter()

    async def hear(progress: BenchmarkProgress) -> None:
        if progress.state in OVER:
            ends[progress.id] += 1

    await follower.subscribe(PROGRESSED, hear, filter=f"{caller.account}.*")
    runs = [await caller.start(seed=SLOW if n % 4 == 0 else 0) for n in range(JOBS)]
    killing = asyncio.create_task(kill_at_random(quick_stack))
    runs = [await caller.finish(run) for run in runs]
    await killing
    assert [run.state for run in runs] == ["succeeded"] * JOBS
    for run in runs:
        assert [point.latency.samples for point in run.results.points] == [8, 8]
    while len(ends) < JOBS:
        await asyncio.sleep(0.05)
    assert set(ends.values()) == {1}


async def kill_at_random(stack: Stack) -> None:
    order = random.Random(1)
    for _ in range(KILLS):
        await asyncio.sleep(order.uniform(0.5, 2.0))
        with contextlib.suppress(ProcessLookupError):
            os.kill(
                stack.processes[f"worker-{order.randint(1, QUICK.replicas)}"].pid, signal.SIGKILL
            )


async def test_a_job_that_ends_its_workers_is_dead_lettered_with_the_reason(
    caller, letters
) -> None:
    run = await caller.finish(await caller.start(seed=POISON))
    assert (run.state, run.error.reason) == ("failed", "poison")
    while (letter := await dead_letter(letters)) is None:
        await asyncio.sleep(0.05)
    assert run.id in letter.data.decode()
    assert f"{MAX_LOST_DELIVERIES} times" in letter.headers[REASON]


async def test_a_run_that_progresses_is_not_dead_lettered_although_its_workers_stop(
    quick_stack, caller
) -> None:
    """Only deliveries without progress count as lost."""
    run = await caller.start(seed=SLOW, iterations=10_000)
    before = None
    for number in (signal.SIGTERM, *[signal.SIGKILL] * MAX_LOST_DELIVERIES, None):
        holder = done = None
        while done is None or run.progress.done == done:
            await asyncio.sleep(0.05)
            run = await caller.call(GET_RUN, RunName(id=run.id))
            assert run.state in {"queued", "running"}, run.error
            holder, _ = kept_of(quick_stack, run.id)
            if done is None and holder not in (before, None):
                done = run.progress.done
        before = holder
        if number:
            signal_busy_workers(quick_stack, number)
    await caller.call(CANCEL_RUN, RunName(id=run.id))


async def test_a_stopping_worker_returns_its_run_which_does_not_count_as_lost(
    quick_stack, caller
) -> None:
    run = await caller.start(seed=STUCK)
    first = None
    while first is None:
        await asyncio.sleep(0.05)
        first, _ = kept_of(quick_stack, run.id)
    # After its last stage it has nothing to report, but its heartbeats hold the run.
    while not is_true(quick_stack, run.id, "stages ? 'warming'"):
        await asyncio.sleep(0.05)
    silence(quick_stack, run.id)
    while not is_true(quick_stack, run.id, "heard_at > now() - interval '5 seconds'"):
        await asyncio.sleep(0.05)
    holder = first
    while holder in (first, None):
        if holder == first:  # otherwise the next worker may just be taking it
            signal_busy_workers(quick_stack, signal.SIGTERM)
        await asyncio.sleep(0.5)
        holder, lost = kept_of(quick_stack, run.id)
    assert lost == 0
    await caller.call(CANCEL_RUN, RunName(id=run.id))


def signal_busy_workers(stack: Stack, number: int) -> None:
    """Signal the workers that have a child process."""
    for name in (f"worker-{n + 1}" for n in range(QUICK.replicas)):
        with contextlib.suppress(psutil.NoSuchProcess, AssertionError):  # it is restarting
            worker = psutil.Process(stack.processes[name].pid)
            if worker.children():
                worker.send_signal(number)


def kept_of(stack: Stack, id: str) -> tuple[str | None, int]:
    with psycopg.connect(stack.postgres.url("benchmarker")) as connection:
        cursor = connection.execute("select holder, lost from benchmarker.runs where id = %s", [id])
        return cursor.fetchone()


def is_true(stack: Stack, id: str, condition: str) -> bool:
    query = f"select from runs where id = %s and {condition}"
    with psycopg.connect(stack.postgres.url("benchmarker")) as connection:
        return connection.execute(query, [id]).rowcount == 1


async def test_a_run_continues_with_the_next_block_after_its_worker_is_killed(
    quick_stack, caller
) -> None:
    run = await caller.start(seed=SLOW, iterations=640)
    while not run.progress.done:
        await asyncio.sleep(0.02)
        run = await caller.call(GET_RUN, RunName(id=run.id))
    signal_busy_workers(quick_stack, signal.SIGKILL)
    before = run.progress.done
    while run.state == "running":
        assert run.progress.done >= before  # nothing is measured again
        before = run.progress.done
        await asyncio.sleep(0.05)
        run = await caller.call(GET_RUN, RunName(id=run.id))
    assert run.state == "succeeded"
    assert [point.latency.samples for point in run.results.points] == [640, 640]


async def test_sizes_are_searched_for_when_the_caller_names_none(caller) -> None:
    run = await caller.measure(batch_sizes=None, iterations=2)
    measured = run.results.batch_sizes
    assert measured[0] == 1
    assert 4 <= len(measured) < 16  # more than the two ends, fewer than the whole grid
    assert run.progress.done == run.progress.total == (SEARCH_CALLS + 2) * len(measured)
    assert run.analysis.optimal_batch_size in measured


async def test_a_run_restarts_on_another_kind_of_machine(quick_stack, caller, follower) -> None:
    """A sample must come from one machine, so the first machine's figures are discarded."""
    received: list[int] = []

    async def hear(progress: BenchmarkProgress) -> None:
        if progress.id == run.id:
            received.append(progress.done)

    run = await caller.start(seed=MOVED, iterations=400)
    await follower.subscribe(PROGRESSED, hear, filter=f"{caller.account}.*")
    while not run.progress.done:
        await asyncio.sleep(0.02)
        run = await caller.call(GET_RUN, RunName(id=run.id))
    signal_busy_workers(quick_stack, signal.SIGTERM)
    run = await caller.finish(run)
    assert run.state == "succeeded", run.error
    assert [point.latency.samples for point in run.results.points] == [400, 400]
    assert received != sorted(received)  # from 0 again


async def test_an_unreadable_job_is_dead_lettered(caller, queue, letters) -> None:
    await queue.publish("job.benchmarker.measure.cpu", b'{"id": "not a run"}', stream=STREAM)
    while (letter := await dead_letter(letters)) is None or b"not a run" not in letter.data:
        await asyncio.sleep(0.05)
    assert letter.headers[REASON].startswith("cannot be read")
    assert (await caller.measure()).state == "succeeded"  # the workers continue


async def dead_letter(letters):
    try:
        return await letters.get_last_msg(DEAD, "dead.benchmarker.measure.cpu")
    except NotFoundError:
        return None


async def test_sizes_that_fit_keep_their_figures_when_another_runs_out_of_memory(caller) -> None:
    run = await caller.measure(seed=TOO_BIG, batch_sizes=[1, 4, 2, 8])
    results = run.results
    assert [t is None for t in results.throughput] == [False, True, False, True]
    assert results.memory_usage[1] is None
    assert {error.batch_size: error.reason for error in results.errors} == {
        4: "out_of_memory",
        8: "predicted_out_of_memory",  # larger than a size that did not fit
    }
    assert run.progress.done == run.progress.total
    assert (await caller.measure()).state == "succeeded"  # the worker still works


async def test_sizes_keep_their_figures_when_the_model_fails_at_a_larger_one(
    caller,
) -> None:
    run = await caller.measure(seed=BROKEN, batch_sizes=[8, 1, 4, 2])
    assert [t is None for t in run.results.throughput] == [True, False, True, False]
    assert [error.reason for error in run.results.errors] == ["not_measured"] * 2
    messages = {error.batch_size: error.message for error in run.results.errors}
    assert "INT_MAX" in messages[4]
    assert "fails at 4" in messages[8]
    assert all("no such counter" in point.energy.missing for point in run.results.points)
    run = await caller.finish(await caller.start(seed=BROKEN, batch_sizes=[4]))
    assert (run.state, run.error.reason) == ("failed", "model")
    assert "INT_MAX" in run.error.message


async def test_figures_survive_running_out_of_memory_during_the_energy_measurement(caller) -> None:
    run = await caller.measure(seed=DRAINED)
    assert all(run.results.throughput)
    for point in run.results.points:
        assert point.energy.per_inference is None
        assert "memory" in point.energy.missing


async def test_a_killed_child_fails_its_run_with_the_reason() -> None:
    class Fetching:
        work = SimpleNamespace(id="bench_0")

        async def run(self) -> None:
            raise OutOfMemory("the process was killed")

    settings = WorkerSettings(nats_url="nats://none")
    failure = await Worker(MemoryBus(), settings, None, UNCONFINED)._run(Fetching())
    assert (failure.status, failure.reason) == (422, "memory")


@pytest.mark.parametrize(
    ("takes", "classes"), [({}, ["gpu", "cpu"]), ({"worker_takes": "gpu"}, ["gpu"])]
)
async def test_a_worker_announces_the_classes_of_its_machine_and_settings(
    monkeypatch, takes, classes
) -> None:
    class OnAGpu:
        async def request(self, device="cuda", **_):
            kind = {"cuda": "gpu", "cpu": "cpu"}[device]
            return {"name": device, "device_class": kind, "memory": 1.0, "dtypes": []}

    @contextlib.asynccontextmanager
    async def started(_module):
        yield OnAGpu()

    monkeypatch.setattr(worker_process, "started", started)
    announcements = await describe("one", WorkerSettings(nats_url="nats://none", **takes))
    assert [me.device_class for me in announcements] == classes
    assert len({me.worker for me in announcements}) == len(announcements)  # names are unique


async def test_a_machine_runs_one_job_at_a_time_across_its_classes(
    monkeypatch,
) -> None:
    """Calls on a GPU would otherwise wait for a CPU that is measuring another run."""
    at_work, together, back = [], [], []

    async def pull(_bus, _job, worker_class):
        for number in range(3):
            await asyncio.sleep(0)

            async def release(_seconds, name=f"{worker_class} {number}") -> None:
                back.append(name)

            job = {"id": "bench_0", "number": 1, "context": Context()}
            yield SimpleNamespace(**job, release=release, worker_class=worker_class)

    async def work(_self, delivery) -> None:
        at_work.append(delivery)
        together.append(len(at_work))
        await asyncio.sleep(0.01)
        at_work.remove(delivery)

    monkeypatch.setattr(jobs, "pull", pull)
    monkeypatch.setattr(Worker, "work", work)
    turn = asyncio.Lock()
    settings = WorkerSettings(nats_url="nats://none")
    classes = [SimpleNamespace(device_class=name) for name in ("gpu", "cpu")]
    workers = [Worker(MemoryBus(), settings, me, UNCONFINED, turn) for me in classes]
    await asyncio.gather(*(worker.serve() for worker in workers))
    assert set(together) == {1}
    assert len(together) + len(back) == 6  # jobs that arrive meanwhile go to another machine


async def test_a_job_lost_by_the_queue_still_waits_for_a_machine_that_supports_it(
    quick_stack, caller, queue, monkeypatch
) -> None:
    offered: list[str] = []
    workers: list[str] = []
    release = jobs.Delivery.release

    async def again(delivery, seconds) -> None:
        await release(delivery, seconds)
        offered.append(delivery.id)

    async def deliver(_self, delivery, *_) -> None:
        workers.append(delivery.id)

    monkeypatch.setattr(jobs.Delivery, "release", again)
    monkeypatch.setattr(Worker, "_deliver", deliver)
    machine = {"name": "none", "device_class": "cpu", "memory": 24_000.0, "dtypes": ["float32"]}
    me = Announcement(worker="plain", attentions=["sdpa"], **machine)
    url = quick_stack.nats.url("worker")
    for number in range(QUICK.replicas):
        quick_stack.stop(f"worker-{number + 1}")
    async with bus.connect(url, "worker") as connection:
        plain = Worker(connection, WorkerSettings(nats_url=url), me, UNCONFINED)
        serving = asyncio.create_task(plain.serve())
        try:
            run = await caller.start(attention="eager")
            while len(offered) < 2 and not workers:
                await asyncio.sleep(0.02)
            assert offered == 2 * [run.id]
            assert (await caller.call(GET_RUN, RunName(id=run.id))).state == "queued"
            await queue.purge_stream(STREAM)
            again = len(offered)
            while len(offered) == again:  # it is published again
                await asyncio.sleep(0.05)
        finally:
            for number in range(QUICK.replicas):
                quick_stack.processes[f"worker-{number + 1}"].start()
        assert (await caller.finish(run)).state == "succeeded"
        serving.cancel()
    assert not workers
