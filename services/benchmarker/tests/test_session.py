"""A job on a worker, with a fake model and recorded reports."""

import os
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarker.search import GRID
from benchmarker.settings import WorkerSettings
from benchmarker.worker import cache, session
from benchmarker.worker.child import started
from benchmarker.worker.sandbox import Sandbox
from benchmarker.worker.session import Holder, Session
from common.contracts.benchmarking import BenchmarkRequest
from common.contracts.measuring import (
    REPORT,
    SEARCHING,
    Measurement,
    ModelAt,
    Report,
    ReportReply,
    Ticket,
)
from common.testing import MemoryBus


@pytest.fixture
def job(monkeypatch, tmp_path):
    """Return a function that runs a job, and returns its reports, sandboxes and loads."""
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.setattr(cache, "FETCH", "quick_model")
    monkeypatch.setattr(session, "MEASURE", "quick_model")

    async def run(device="cpu", ticket=None, **fields) -> SimpleNamespace:
        done = SimpleNamespace(reports=[], sandboxes=0, loads=[])

        @asynccontextmanager
        async def noted(module, environment, confinement=None):
            done.sandboxes += 1 if confinement else 0
            async with started(module, environment, confinement) as child:
                send = child.request

                async def note(**question):
                    if question.get("do") == "load":
                        done.loads.append(question)
                    return await send(**question)

                child.request = note
                yield child

        async def hear(report: Report) -> ReportReply:
            done.reports.append(report)
            return ReportReply(run=True)

        monkeypatch.setattr(session, "started", noted)
        bus = MemoryBus()
        bus.answer(REPORT, hear)
        request = {"batch_sizes": [1, 8], "iterations": 2, "warmup": 0, **fields}
        work = Measurement(
            id="bench_0",
            model=ModelAt(id="a/b", commit="0" * 40, task="none", library="transformers"),
            request=BenchmarkRequest(model_id="a/b", **request),
        )
        settings = WorkerSettings(nats_url="nats://none", hf_home=tmp_path)
        await Session(
            bus,
            work,
            Holder("one", device, Sandbox((), (), ())),
            ticket or Ticket(run=True),
            settings,
        ).run()
        return done

    return run


async def test_a_cpus_memory_is_measured_in_a_process_that_returns_freed_memory(job) -> None:
    done = await job()
    assert done.sandboxes == 1
    assert [question["givesBack"] for question in done.loads] == [True, False]
    assert [report.size.batch_size for report in done.reports if report.size][:4] == [1, 2, 4, 8]


async def test_a_model_is_loaded_once_on_a_gpu(job) -> None:
    done = await job(device="cuda")
    assert done.sandboxes == 1
    assert [question["givesBack"] for question in done.loads] == [False]


async def test_a_model_is_loaded_with_the_options_of_the_request(job) -> None:
    options = {"dtype": "bfloat16", "attention": "eager", "compile": True}
    done = await job(**options)
    assert all(options.items() <= question.items() for question in done.loads)


async def test_figures_from_another_kind_of_machine_are_measured_again(job) -> None:
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
    # The first process finds that earlier figures do not count; memory gets a process of its own.
    assert [question["givesBack"] for question in second.loads] == [False, True, False]


async def test_a_search_continues_with_the_sizes_already_timed(job) -> None:
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
