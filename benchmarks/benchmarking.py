"""The benchmarker against a bare loop, its statistics and search against known truth.

The bare loop is the referee: the same model, called and timed by nothing but
`perf_counter_ns`. It and the harness take turns, so that other load on the
machine affects both.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from transformers import BertConfig, BertModel

from benchmarker import search
from benchmarker.statistics import describe
from benchmarker.worker.child import started
from benchmarker.worker.timing import Cpu, time_calls
from benchmarks.report import Report, figure
from common import bus
from common.contracts.benchmarking import CANCEL_RUN, GET_RUN, PROGRESSED, RunName
from hub.testing import RunningHub
from local.services import Service
from local.stack import Stack

TESTS = Path(__file__).parents[1] / "services" / "benchmarker" / "tests"
sys.path.insert(0, str(TESTS))
from benchmark_caller import CONTROL, GENERATOR, METRICS, Caller  # noqa: E402
from quick_model import SLOW  # noqa: E402
from synthetic_curves import budget_for, curve  # noqa: E402
from test_search import explore  # noqa: E402
from test_statistics import autoregressive  # noqa: E402

TURNS = 150
CALLS = 10
SERIES = 1000
CURVES = 1000
RUNS = 30
ACK_WAIT = 3.0
# BERT: layers, width, batch size, tokens. The first is the one measured with optimum-benchmark.
MODELS = {"tiny BERT": (2, 64, 4, 32), "small BERT": (4, 256, 4, 32)}


def measure() -> Report:
    report = Report("The benchmarker: its harness, its statistics, its search, its jobs")
    _harness(report)
    _supervision(report)
    _coverage(report)
    _search(report)
    _jobs(report)
    return report


def _harness(report: Report) -> None:

    nothing = _turns(lambda: None, 100, Cpu())
    report.add(
        figure(
            "harness, per call of nothing",
            (nothing[1] - nothing[0]) / 1e3,
            "µs above the bare loop",
            at_most=10,
        )
    )
    for name, (layers, width, batch, tokens) in MODELS.items():
        config = BertConfig(
            num_hidden_layers=layers, hidden_size=width, num_attention_heads=4,
            intermediate_size=2 * width, vocab_size=1000,
        )  # fmt: skip
        model = BertModel(config).eval()
        ids = torch.randint(0, 1000, (batch, tokens))
        with torch.inference_mode():
            for _ in range(50):
                model(ids)
            bare, measured = _turns(lambda m=model, i=ids: m(i), CALLS, Cpu())
        report.add(
            figure(
                f"{name}, batch {batch}: median",
                measured / 1e6,
                "ms",
                against=("bare loop", bare / 1e6),
                # The overhead is the same for every call, and thus a smaller share of a longer one.
                at_most=bare / 1e6 * (1.005 if bare >= 2e6 else 1.02),
            )
        )


def _turns(call: Callable[[], Any], calls: int, device: Any) -> tuple[float, float]:
    """Return the median nanoseconds per call, of the bare loop and of the harness."""

    bare: list[int] = []
    measured: list[int] = []

    def by_bare_loop() -> None:
        clock = time.perf_counter_ns
        for _ in range(calls):
            start = clock()
            call()
            bare.append(clock() - start)

    def by_harness() -> None:
        measured.extend(time_calls(call, calls, device).wall)

    order = random.Random(1)
    for _ in range(TURNS):
        for turn in order.sample([by_bare_loop, by_harness], 2):
            turn()
    return statistics.median(bare), statistics.median(measured)


def _questions(folder: str) -> list[dict[str, Any]]:
    load = {
        "do": "load", "folder": folder, "task": "feature-extraction", "library": "transformers",
        "device": "cpu", "dtype": "float32", "attention": None, "compile": False,
        "inputTokens": 64, "newTokens": 4, "steps": 2, "seed": 0, "maxMemoryMib": None,
        "memoryShare": 0.9,
        "givesBack": False,
    }  # fmt: skip
    block = {"do": "block", "batchSize": 8, "calls": 100, "warmup": 20}
    return [load, *({**block, "round": number} for number in range(3))]


def _supervision(report: Report) -> None:
    """Time the same process with and without a waiting supervisor."""

    module = "benchmarker.worker.measure"
    with tempfile.TemporaryDirectory() as folder:
        config = BertConfig(num_hidden_layers=4, hidden_size=256, num_attention_heads=4)
        BertModel(config).save_pretrained(folder)
        questions = _questions(folder)

        async def supervised() -> list[dict[str, Any]]:
            async with started(module) as child:
                return [await child.request(**question) for question in questions]

        def alone() -> list[dict[str, Any]]:
            lines = "\n".join(json.dumps(question) for question in questions)
            command = [sys.executable, "-m", module]
            done = subprocess.run(
                command, input=lines, stdout=subprocess.PIPE, text=True, check=True
            )
            return [json.loads(line) for line in done.stdout.splitlines()]

        medians: dict[str, list[float]] = {"supervised": [], "alone": []}
        for _ in range(4):
            for name, answers in (("supervised", asyncio.run(supervised())), ("alone", alone())):
                walls = [time for answer in answers[1:] for time in answer["wall"]]
                medians[name].append(statistics.median(walls) / 1e6)
    with_it, without = (min(medians[name]) for name in ("supervised", "alone"))
    report.add(
        figure(
            "a supervised process: best median",
            with_it,
            "ms",
            against=("no supervisor", without),
            at_most=without * 1.02,
        )
    )


def _coverage(report: Report) -> None:

    order = np.random.default_rng(1)
    shares: dict[str, list[float]] = {"mean": [], "median": []}
    for rho in (0.0, 0.25, 0.5):
        hits = {"mean": 0, "median": 0}
        for _ in range(SERIES):
            described = describe(10 + autoregressive(order, rho, 130))
            for name in hits:
                interval = getattr(described, f"{name}_interval")
                hits[name] += interval.low <= 10 <= interval.high
        for name, count in hits.items():
            shares[name].append(100 * count / SERIES)
    for name, covered in shares.items():
        report.add(
            figure(f"95 % interval of the {name}: least cover", min(covered), "%", at_least=93)
        )
        report.add(
            figure(f"95 % interval of the {name}: most cover", max(covered), "%", at_most=97)
        )


def _search(report: Report) -> None:

    order = random.Random(2)
    share, regret, broken = 0.0, [], 0
    for number in range(CURVES):
        latency = curve(order, search.GRID, cliff=number % 4 == 0)
        budget = budget_for(order, latency)
        measured = explore(latency, budget)
        share += len(measured) / len(search.GRID) / CURVES
        pick, best = search.best(measured, budget), search.best(latency, budget)
        if pick and best:
            broken += budget is not None and latency[pick] > budget
            regret.append(1 - pick / latency[pick] / (best / latency[best]))
    report.add(figure("search: share of the grid measured", 100 * share, "%", at_most=55))
    report.add(figure("search: mean regret", 100 * statistics.mean(regret), "%", at_most=1))
    report.add(figure("search: picks that break their budget", broken, "", at_most=0))


def _jobs(report: Report) -> None:
    """Measure the overhead of a job with a model that costs nothing."""

    environment = {
        "PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "BENCHMARKS_PER_HOUR": "100000",
        "MAX_WAITING_PER_ACCOUNT": "100000",
        "ACK_WAIT_S": str(ACK_WAIT),
    }
    worker = Service("worker", module="quick_worker")
    with (
        RunningHub() as hub,
        Stack(
            servers={"nats", "postgres"},
            services=(GENERATOR, CONTROL, METRICS, worker),
            environment={**environment, "HF_ENDPOINT": hub.url},
        ) as stack,
    ):
        first, cancels, resumed = asyncio.run(_follow(stack))
    p95 = float(np.percentile(first, 95))
    report.add(figure(f"first progress, 95 % of {RUNS} runs", p95, "ms", at_most=250))
    report.add(figure("cancel until the process is gone, worst of 5", max(cancels), "s", at_most=2))
    report.add(figure("a killed worker's run goes on after", resumed, "s", at_most=ACK_WAIT + 5))
    report.notes.append(f"Ack wait {ACK_WAIT:g} s; one worker, started again by the supervisor.")


async def _follow(stack: Any) -> tuple[list[float], list[float], float]:
    """Measure ms until runs progress, s until they are canceled, and the delay after a kill."""

    async with bus.connect(stack.nats.url("gateway"), "gateway") as connection:
        caller = Caller(connection)
        at: dict[str, float] = {}

        async def hear(news: Any) -> None:
            if news.state == "running":
                at.setdefault(news.id, time.perf_counter())

        await connection.subscribe(PROGRESSED, hear, filter=f"{caller.account}.*")
        first, cancels = [], []
        for _ in range(RUNS):
            start = time.perf_counter()
            run = await caller.finish(await caller.start())
            first.append((at[run.id] - start) * 1e3)
        for _ in range(5):
            run = await caller.start(seed=SLOW, iterations=10_000)
            while run.progress.done == 0:
                run = await caller.call(GET_RUN, RunName(id=run.id))
                await asyncio.sleep(0.02)
            [child] = psutil.Process(stack.processes["worker-1"].pid).children()
            start = time.perf_counter()
            await caller.call(CANCEL_RUN, RunName(id=run.id))
            with contextlib.suppress(psutil.NoSuchProcess):
                while child.status() != psutil.STATUS_ZOMBIE:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            cancels.append(time.perf_counter() - start)
        run = await caller.start(seed=SLOW, iterations=4000)
        while run.progress.done == 0:
            run = await caller.call(GET_RUN, RunName(id=run.id))
            await asyncio.sleep(0.02)
        killed = time.perf_counter()
        os.kill(stack.processes["worker-1"].pid, signal.SIGKILL)
        before = (await caller.call(GET_RUN, RunName(id=run.id))).progress.done
        while run.progress.done <= before:
            run = await caller.call(GET_RUN, RunName(id=run.id))
            await asyncio.sleep(0.05)
        resumed = time.perf_counter() - killed
        await caller.call(CANCEL_RUN, RunName(id=run.id))
    return first, cancels, resumed
