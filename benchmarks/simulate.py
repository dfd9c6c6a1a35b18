"""GPU jobs in a queue under KEDA: their waiting times, and the cost of a scaling policy.

Measured in the same run, on the real stack: a worker's start and a run's time with it. The time
until a new machine is there cannot be measured on one machine, nor can a large model's download;
they are assumptions, named below. The decision is KEDA's, of a ScaledJob with the strategy
`default` (2.20), asked every `pollingInterval`:

    new pods = min(ceil(backlog / lagThreshold), maxReplicaCount) - pods that run

The simulation is held against Erlang's formula for queues whose workers are always on.
"""

import math
import random
import statistics
import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import simpy

from benchmarks.drawing import Point, scatter
from benchmarks.processes import ROOT
from benchmarks.report import Report, figure
from hub.testing import RunningHub
from integration.caller import Account
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
# As in deploy/k8s/base/worker-gpu.yaml.
POLL_S, MAX_WORKERS = 10.0, 8
# Assumptions. A cloud's GPU machine takes minutes until its driver is ready, and the image with
# CUDA is 5 GB; the autoscaler of clusters keeps an idle machine for ten minutes by default.
MACHINE_START_S, IMAGE_BYTES, MACHINE_KEPT_S = 150.0, 5e9, 600.0
# Weights are between 0.5 and 16 GB, small ones more often; bytes/s of the download: 250 Mbit/s.
LEAST_WEIGHTS_BYTES, MOST_WEIGHTS_BYTES, BYTES_PER_S = 0.5e9, 16e9, 250e6 / 8
# One GPU of the kind that clouds rent for inference.
USD_PER_HOUR = 2.5
RUNS_PER_HOUR = (2, 10, 30)
# Active models of docs/scaling.md, each measured once a month, under the policy as shipped; days
# in which some thousand runs come.
MODELS, HOURS_PER_MONTH = {100: 600, 10_000: 60, 1_000_000: 3}, 730
# Share of the workers that is busy on average at most, so that their number bounds no cost.
MAX_BUSY = 0.2
DRAWING = ROOT / "docs" / "scaling.svg"
DAYS = 60
RUNS = 3
SEED = 1

Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Policy:
    """Rules for when workers start and stop.

    Attributes:
        always: workers that are never stopped; the rest are started by the backlog.
        max_workers: of both kinds together (`maxReplicaCount`).
        max_jobs: jobs after which a started worker leaves (`MAX_JOBS`); None: no bound.
        max_idle_s: seconds without a job after which it leaves (`MAX_IDLE_S`).
    """

    name: str
    always: int = 0
    max_workers: int = MAX_WORKERS
    max_jobs: int | None = 1
    max_idle_s: float = 60.0


POLICIES = (
    Policy("one pod for each job, as shipped"),
    Policy("started pods stay for 10 minutes", max_jobs=None, max_idle_s=600.0),
    Policy("one worker always on", always=1),
    Policy(f"{MAX_WORKERS} workers always on", always=MAX_WORKERS),
)


class Machines:
    """GPU machines: started for a pod, kept for a while after it, paid for throughout."""

    def __init__(self) -> None:
        self.paid_s = 0.0
        # When each machine without a pod lost its last one, oldest first.
        self.idle_since: list[float] = []

    def take(self, now: float) -> bool:
        """Take a machine that is still running; return whether there was one."""
        kept = [since for since in self.idle_since if now - since < MACHINE_KEPT_S]
        self.paid_s += MACHINE_KEPT_S * (len(self.idle_since) - len(kept))
        self.idle_since = kept
        if not kept:
            return False
        self.paid_s += now - kept.pop()
        return True

    def give_back(self, now: float, used_s: float) -> None:
        self.paid_s += used_s
        self.idle_since.append(now)


class Fleet:
    """A queue of runs, and the workers that a policy gives it.

    Args:
        start_s: from a pod's start, on a machine that has the image, to a worker that takes jobs.
        service_s: draws how long a run takes, download included.
    """

    def __init__(self, policy: Policy, start_s: float, service_s: Callable[[], float]) -> None:
        self.policy = policy
        self.start_s = start_s
        self.service_s = service_s
        self.clock = simpy.Environment()
        self.arrival = self.clock.event()
        self.machines = Machines()
        self.waiting: deque[float] = deque()
        self.waits_s: list[float] = []
        self.under_way = self.pods = self.done = 0

    def simulate(self, runs_per_hour: float, days: float, order: random.Random) -> None:
        """Simulate random (Poisson) arrivals of runs for `days` days."""
        self.clock.process(self._arrive(runs_per_hour, order))
        self.clock.process(self._scale())
        for _ in range(self.policy.always):
            self.clock.process(self._work(stays=True))
        self.clock.run(until=days * 86_400)
        self.machines.paid_s += self.policy.always * self.clock.now

    @property
    def usd_per_run(self) -> float:
        return self.machines.paid_s / 3600 * USD_PER_HOUR / self.done

    def _arrive(self, runs_per_hour: float, order: random.Random) -> Process:
        while True:
            yield self.clock.timeout(order.expovariate(runs_per_hour / 3600))
            self.waiting.append(self.clock.now)
            arrived, self.arrival = self.arrival, self.clock.event()
            arrived.succeed()

    def _scale(self) -> Process:
        while True:
            yield self.clock.timeout(POLL_S)
            # KEDA's backlog counts the jobs under way as well.
            backlog = len(self.waiting) + self.under_way
            workers = self.pods + self.policy.always
            for _ in range(min(backlog, self.policy.max_workers) - workers):
                self.pods += 1
                self.clock.process(self._run_pod())

    def _run_pod(self) -> Process:
        begin = self.clock.now
        if not self.machines.take(begin):
            yield self.clock.timeout(MACHINE_START_S + IMAGE_BYTES / BYTES_PER_S)
        yield self.clock.timeout(self.start_s)
        yield self.clock.process(self._work(stays=False))
        self.pods -= 1
        self.machines.give_back(self.clock.now, self.clock.now - begin)

    def _work(self, *, stays: bool) -> Process:
        jobs = 0
        while stays or jobs != self.policy.max_jobs:
            leave = self.clock.timeout(math.inf if stays else self.policy.max_idle_s)
            while not self.waiting:
                yield self.arrival | leave
                if leave.processed:
                    return
            self.waits_s.append(self.clock.now - self.waiting.popleft())
            self.under_way += 1
            yield self.clock.timeout(self.service_s())
            self.under_way -= 1
            self.done += 1
            jobs += 1


def measure() -> Report:
    report = Report("GPU jobs under KEDA, simulated with measured times")
    start_s, runs_s = _measured()
    report.add(figure("a worker's start, measured", start_s, "s"))
    report.add(figure("a run without download, median, measured", statistics.median(runs_s), "s"))
    _against_erlang(report)
    points = []
    for runs_per_hour in RUNS_PER_HOUR:
        for policy in POLICIES:
            order = random.Random(SEED)
            fleet = Fleet(policy, start_s, lambda order=order: _service_s(order, runs_s))
            fleet.simulate(runs_per_hour, DAYS, order)
            waits = statistics.quantiles(fleet.waits_s, n=20)
            label = f"{runs_per_hour} runs an hour, {policy.name}"
            report.add(figure(f"{label}: half wait less than", waits[9] / 60, "min"))
            report.add(figure(f"{label}: 95 % wait less than", waits[18] / 60, "min"))
            report.add(figure(f"{label}: cost", fleet.usd_per_run, "USD a run"))
            points.append(
                Point(policy.name, f"{runs_per_hour}/h", waits[18] / 60, fleet.usd_per_run)
            )
    for models, days in MODELS.items():
        usd = _usd_a_month(models, days, start_s, runs_s)
        report.add(figure(f"{models:,} models, each measured once: cost", usd, "USD a month"))
    drawing = scatter(
        points,
        title="What a policy costs, and how long runs wait under it",
        x="95 % of runs wait less than (minutes)",
        y="USD a run",
    )
    DRAWING.write_text(drawing)
    report.notes += [
        (
            f"assumed: a new machine takes {MACHINE_START_S:g} s, loads {IMAGE_BYTES / 1e9:g} GB of"
            f" image, and is kept for {MACHINE_KEPT_S / 60:g} min;"
        ),
        (
            f"weights of {LEAST_WEIGHTS_BYTES / 1e9:g} to {MOST_WEIGHTS_BYTES / 1e9:g} GB come at"
            f" {BYTES_PER_S * 8 / 1e6:g} Mbit/s; a GPU costs {USD_PER_HOUR:g} USD an hour"
        ),
        f"{DAYS} days are simulated; drawn in docs/scaling.svg",
    ]
    return report


def _usd_a_month(models: int, days: float, start_s: float, runs_s: list[float]) -> float:
    runs_per_hour = models / HOURS_PER_MONTH
    order = random.Random(SEED)
    mean_s = statistics.fmean(_service_s(order, runs_s) for _ in range(1_000))
    busy = runs_per_hour * mean_s / 3600
    policy = replace(POLICIES[0], max_workers=max(MAX_WORKERS, math.ceil(busy / MAX_BUSY)))
    fleet = Fleet(policy, start_s, lambda: _service_s(order, runs_s))
    fleet.simulate(runs_per_hour, days, order)
    return fleet.usd_per_run * models


def _service_s(order: random.Random, runs_s: list[float]) -> float:
    bounds = math.log(LEAST_WEIGHTS_BYTES), math.log(MOST_WEIGHTS_BYTES)
    return math.exp(order.uniform(*bounds)) / BYTES_PER_S + order.choice(runs_s)


def _against_erlang(report: Report) -> None:
    """Compare the mean wait for two workers at 70 % load with Erlang's C formula (M/M/2)."""
    servers, load, mean_s = 2, 1.4, 100.0
    order = random.Random(SEED)
    policy = Policy("Erlang's", always=servers, max_workers=servers)
    fleet = Fleet(policy, 0.0, lambda: order.expovariate(1 / mean_s))
    fleet.simulate(load / mean_s * 3600, 365, order)
    last = load**servers / math.factorial(servers) * servers / (servers - load)
    wait_likely = last / (sum(load**n / math.factorial(n) for n in range(servers)) + last)
    expected_s = wait_likely * mean_s / (servers - load)
    simulated_s = statistics.fmean(fleet.waits_s)
    off = 100 * abs(simulated_s / expected_s - 1)
    report.add(figure("mean wait for two busy workers, off Erlang's formula", off, "%", at_most=3))


def _measured() -> tuple[float, list[float]]:
    """Measure a worker's restart, and its runs without a download, on a real stack, in seconds."""
    with (
        RunningHub(first=[MODEL]) as hub,
        Stack(environment={"HF_ENDPOINT": hub.url}) as stack,
    ):
        account = Account(stack.url)
        runs_s = []
        for _ in range(RUNS):
            run = account.post("/v1/api/benchmark", {"modelId": MODEL}, timeout=600).json()["data"]
            while run["finishedAt"] is None:
                time.sleep(1)
                path = f"/v1/api/benchmark/{run['id']}"
                run = account.http.get(path, headers=account.headers).json()["data"]
            begin_of_run, end = run["stages"]["loading"], run["finishedAt"]
            taken = datetime.fromisoformat(end) - datetime.fromisoformat(begin_of_run)
            runs_s.append(taken.total_seconds())
        begin = time.monotonic()
        stack.restart("worker-1")
        return time.monotonic() - begin, runs_s
