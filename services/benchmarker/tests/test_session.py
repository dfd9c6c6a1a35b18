"""One job on one worker, over a model that costs nothing; what it reports is listened to."""

import os
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarker.memory import GIVES_BACK
from benchmarker.search import GRID
from benchmarker.settings import WorkerSettings
from benchmarker.worker import session
from benchmarker.worker.child import started
from benchmarker.worker.session import Me, Session
from common.contracts.benchmarking import BenchmarkRequest
from common.contracts.measuring import (
    REPORT,
    SEARCHING,
    Measurement,
    ModelAt,
    Report,
    Standing,
    Ticket,
)
from common.testing import MemoryBus


@pytest.fixture
def job(monkeypatch):
    """Runs a job to its end: what it reported, and what each process was started with."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(session, "FETCH", "quick_model")
    monkeypatch.setattr(session, "MEASURE", "quick_model")

    async def run(device="cpu", ticket=None, **fields) -> SimpleNamespace:
        done = SimpleNamespace(reports=[], processes=[])

        @asynccontextmanager
        async def noted(module, environment):
            if "HF_HUB_OFFLINE" in environment:
                done.processes.append(environment)
            async with started(module, environment) as child:
                yield child

        async def hear(report: Report) -> Standing:
            done.reports.append(report)
            return Standing(run=True)

        monkeypatch.setattr(session, "started", noted)
        bus = MemoryBus()
        bus.answer(REPORT, hear)
        asked = {"batch_sizes": [1, 8], "iterations": 2, "warmup": 0, **fields}
        work = Measurement(
            id="bench_0",
            model=ModelAt(id="a/b", commit="0" * 40, task="none", library="transformers"),
            request=BenchmarkRequest(model_id="a/b", **asked),
        )
        settings = WorkerSettings(nats_url="nats://none")
        await Session(bus, work, Me("one", device), ticket or Ticket(run=True), settings).run()
        return done

    return run


async def test_on_a_cpu_memory_is_measured_in_a_process_that_gives_back_what_is_freed(job) -> None:
    done = await job()
    assert [GIVES_BACK.items() <= environment.items() for environment in done.processes] == [
        True,
        False,
    ]
    assert [report.size.batch_size for report in done.reports if report.size][:4] == [1, 2, 4, 8]


async def test_a_gpu_keeps_its_own_account_so_that_the_model_is_loaded_once(job) -> None:
    done = await job(device="cuda")
    assert len(done.processes) == 1
    assert not GIVES_BACK.items() & done.processes[0].items()


async def test_what_another_kind_of_machine_measured_is_measured_anew(job) -> None:
    first = await job()
    setup = next(report.setup for report in first.reports if report.setup)
    other = setup.machine.model_copy(update={"name": "another"})
    before = Ticket(
        run=True,
        setup=setup.model_copy(update={"machine": other}),
        sizes=[report.size for report in first.reports if report.size],
        blocks=[(r.samples.round, r.samples.batch_size) for r in first.reports if r.samples],
    )
    second = await job(ticket=before)
    assert second.reports == first.reports
    # Memory in its own process, once it is seen in one that none of what was brought in counts.
    assert [GIVES_BACK.items() <= environment.items() for environment in second.processes] == [
        False,
        True,
        False,
    ]


async def test_a_search_goes_on_with_what_it_has_timed(job) -> None:
    first = await job(batch_sizes=None)
    searched = [r.samples for r in first.reports if r.samples and r.samples.round == SEARCHING]
    [chosen] = [report.chosen for report in first.reports if report.chosen]
    assert {samples.batch_size for samples in searched} == {*chosen}
    assert 4 <= len(chosen) < len(GRID)
    before = Ticket(
        run=True,
        setup=next(report.setup for report in first.reports if report.setup),
        sizes=[report.size for report in first.reports if report.size],
        looked=[(samples.batch_size, samples.mean) for samples in searched[:-2]],
    )
    second = await job(batch_sizes=None, ticket=before)
    again = [r.samples for r in second.reports if r.samples and r.samples.round == SEARCHING]
    assert [s.batch_size for s in again] == [s.batch_size for s in searched[-2:]]
    assert [report.chosen for report in second.reports if report.chosen] == [chosen]
