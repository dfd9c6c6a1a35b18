"""One job on one worker: fetch the model, load it, probe its memory, time it, report each step.

What is reported is committed by control before the next step begins, so a
session that is cut off at any point goes on elsewhere with the next block.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import structlog
import yaml

from benchmarker import schedule, search
from benchmarker.memory import GIVES_BACK, foreseen, rungs
from benchmarker.settings import WorkerSettings
from benchmarker.worker.child import Child, Failed, OutOfMemory, started
from common.bus import Bus
from common.contracts import Rpc
from common.contracts.figures import Ceilings, Device, EnergyUse, MemoryUse, Setup, Shortage
from common.contracts.measuring import (
    REPORT,
    SEARCHING,
    Measurement,
    Report,
    Samples,
    SizeFacts,
    Ticket,
)
from common.contracts.verification import Verdict
from common.errors import Unavailable

log = structlog.get_logger()

FETCH = "benchmarker.worker.fetch"
MEASURE = "benchmarker.worker.measure"
TRY = "benchmarker.worker.trial"
# How a model fails at a size that is too large for an operation of it, where smaller ones ran: a
# kernel that counts in 32 bits says so, or ends the process.
OF_A_SIZE = ("model", "crashed")
# How long a control that does not answer is waited for, in seconds.
PATIENCE = 120.0


class LetGo(Exception):
    """The run is no longer this worker's: canceled, over, or taken by another."""


@dataclass(frozen=True)
class Me:
    """The device, and the name under which this delivery of a job reports."""

    token: str
    device: Device


class Session:
    verdict: Verdict | None = None

    def __init__(
        self, bus: Bus, work: Measurement, me: Me, ticket: Ticket, settings: WorkerSettings
    ) -> None:
        self.bus = bus
        self.work = work
        self.worker = me.token
        self.settings = settings
        self.device: Device = me.device
        self.done = set(ticket.blocks)
        self.sizes = {facts.batch_size: facts for facts in ticket.sizes}
        self.looked = dict(ticket.looked)
        self.chosen = ticket.chosen
        self.before = ticket.setup
        self.setup: Setup | None = None
        self.finished = False
        self.canceled = False

    async def run(self) -> None:
        """Raises Failed with what went wrong, or LetGo."""
        await self.measure(await fetch(self.work, self.settings))

    async def measure(self, folder: str) -> None:
        """All that is missing of the model in a folder. Raises as `run` does.

        A process that ran out of memory is not trusted with another figure. And memory has a
        process of its own on a CPU: one that gives back what is freed would be timed too slow.
        """
        while True:
            apart = self.device == "cpu" and bool(self._unprobed())
            async with self._loaded(folder, GIVES_BACK if apart else {}) as child:
                if self.device == "cpu" and not apart and self._unprobed():
                    continue  # what was brought in does not count on this machine
                if await self._probe_all(child) and not apart and await self._time_all(child):
                    return

    def _unprobed(self) -> list[int]:
        wanted = rungs(self.work.request.batch_sizes or search.GRID)
        return [size for size in wanted if size not in self.sizes]

    async def _probe_all(self, child: Child) -> bool:
        """Measure the memory of each size, ascending; False if one cost the process."""
        for size in self._unprobed():
            if not await self._probe(child, size):
                return False
        return True

    async def _time_all(self, child: Child) -> bool:
        """Whether all is done; False: go on in a fresh process."""
        sizes = self.work.request.batch_sizes
        if sizes is None:
            if not self.chosen and not await self._search(child):
                return False
            sizes = self.chosen
        if not await self._time(child, [size for size in sizes if not self._short(size)]):
            return False
        for size in sizes:
            facts = self.sizes[size]
            if not facts.shortage and facts.energy is None and not await self._energy(child, facts):
                return False
        return True

    async def _energy(self, child: Child, facts: SizeFacts) -> bool:
        """Count a size's energy; False if that cost the process. Its other figures stand."""
        survived = True
        try:
            answer = await child.ask(do="energy", batchSize=facts.batch_size)
        except OutOfMemory as error:
            survived = False
            answer = {"missing": f"not measured: it ran out of memory while counting ({error})"}
        except Failed as error:
            survived = False
            answer = {"missing": f"not measured: {error}"}
        energy = EnergyUse.model_validate(answer)
        await self._report_size(facts.model_copy(update={"energy": energy}))
        return survived

    async def _probe(self, child: Child, size: int) -> bool:
        """Measure a size's memory; False if that cost the process."""
        if (why_not := self._fails_before(size)) is not None:
            await self._report_size(_short(size, "not_measured", why_not))
            return True
        if (why_not := self._cannot_fit(size)) is not None:
            await self._report_size(_short(size, "predicted_out_of_memory", why_not))
            return True
        try:
            answer = await child.ask(do="probe", batchSize=size)
        except OutOfMemory as error:
            await self._ran_out(size, error)
            return False
        except Failed as error:
            if error.reason not in OF_A_SIZE or not self._smaller_ran(size):
                raise
            message = f"batch size {size} was not measured: {error}"
            await self._report_size(_short(size, "not_measured", message))
            return False
        memory = MemoryUse.model_validate(answer)
        await self._report_size(SizeFacts(batch_size=size, memory=memory))
        return True

    def _cannot_fit(self, size: int) -> str | None:
        """Why a size need not be tried, by those that were."""
        assert self.setup
        ran_out = [other for other in self.sizes if self._short(other) and other < size]
        if ran_out:
            return f"batch size {size} was not tried: {min(ran_out)} does not fit"
        peaks = {
            other: facts.memory.used
            for other, facts in self.sizes.items()
            if facts.memory and facts.memory.used
        }
        per_sample = (self.setup.estimate or self.setup.base) - self.setup.base
        available = self.setup.available or float("inf")
        too_much = foreseen(size, peaks, available, (self.setup.base, per_sample))
        if too_much is None:
            return None
        return (
            f"batch size {size} would take {too_much:,.0f} MiB, by the sizes that ran;"
            f" there are {available:,.0f} MiB"
        )

    async def _time(self, child: Child, sizes: list[int]) -> bool:
        """All blocks that are missing; False if one cost the process."""
        request = self.work.request
        moments = 1 + (self.setup.new_tokens or 0 if self.setup else 0)
        for block in schedule.blocks(sizes, request.iterations, request.seed, moments):
            if (block.round, block.batch_size) in self.done:
                continue
            try:
                answer = await child.ask(
                    do="block", round=block.round, batchSize=block.batch_size,
                    calls=block.calls, warmup=request.warmup,
                )  # fmt: skip
            except OutOfMemory as error:
                await self._ran_out(block.batch_size, error)
                return False
            await self._report(samples=Samples.model_validate(answer))
            self.done.add((block.round, block.batch_size))
        return True

    async def _search(self, child: Child) -> bool:
        """Find out which sizes deserve full rounds; False if a size cost the process."""
        seen = {size: search.Sample(latency) for size, latency in self.looked.items()}
        short = [size for size in search.GRID if self._short(size)]
        seen |= dict.fromkeys(short[:1], search.Sample(None))
        budget = self.work.request.latency_budget_ms
        while (size := search.next_size(seen, search.GRID, budget)) is not None:
            try:
                answer = await child.ask(
                    do="block", round=SEARCHING, batchSize=size, calls=search.CALLS,
                    warmup=self.work.request.warmup,
                )  # fmt: skip
            except OutOfMemory as error:
                await self._ran_out(size, error)
                return False
            samples = Samples.model_validate(answer)
            await self._report(samples=samples)
            self.looked[size] = samples.mean
            seen[size] = search.Sample(samples.mean)
        self.chosen = sorted(seen)
        await self._report(chosen=self.chosen)
        return True

    @asynccontextmanager
    async def _loaded(self, folder: str, environment: Mapping[str, str]) -> AsyncIterator[Child]:
        request, model = self.work.request, self.work.model
        dtype = request.dtype or ("bfloat16" if self.device == "cuda" else "float32")
        async with started(MEASURE, {"HF_HUB_OFFLINE": "1", **environment}) as child:
            ceilings, missing = Ceilings(), {}
            if self.setup is None:
                try:
                    answer = await child.ask(do="ceilings", device=self.device, dtype=dtype)
                    ceilings = Ceilings.model_validate(answer)
                except OutOfMemory:
                    missing["ceilings"] = (
                        "there was no memory to measure the device's ceilings with"
                    )
            try:
                answer = await child.ask(
                    do="load",
                    folder=folder,
                    task=model.task,
                    library=model.library,
                    device=self.device,
                    dtype=dtype,
                    attention=request.attention,
                    compile=request.compile,
                    inputTokens=request.input_tokens,
                    newTokens=request.new_tokens,
                    steps=request.steps,
                    seed=request.seed,
                    mostMemory=self.settings.most_memory,
                    memoryShare=self.settings.memory_share,
                )
            except OutOfMemory as error:
                raise Failed(f"the model does not fit this machine: {error}", "memory") from error
            if self.setup is None:
                found = {**answer, "task": model.task, "commit": model.commit}
                found["missing"] = {**answer.get("missing", {}), **missing}
                await self._settle(Setup.model_validate({**found, "ceilings": ceilings}))
            yield child

    async def _settle(self, setup: Setup) -> None:
        """Go on from what was brought in under the same conditions; under others begin anew."""
        if self.before and self.before.like(setup):
            self.setup = self.before
            return
        self.setup = setup
        self.done, self.sizes, self.looked, self.chosen = set(), {}, {}, []
        await self._report(setup=setup)

    def _short(self, size: int) -> bool:
        facts = self.sizes.get(size)
        return facts is not None and facts.shortage is not None

    def _fails_before(self, size: int) -> str | None:
        """Why a size need not be tried, where the model fails at a smaller one."""
        failed = [
            other
            for other, facts in self.sizes.items()
            if other < size and facts.shortage and facts.shortage.reason == "not_measured"
        ]
        return (
            f"batch size {size} was not tried: the model fails at {min(failed)}" if failed else None
        )

    def _smaller_ran(self, size: int) -> bool:
        return any(other < size and facts.memory for other, facts in self.sizes.items())

    async def _ran_out(self, size: int, error: OutOfMemory) -> None:
        log.info("out of memory", run=self.work.id, batch_size=size, error=str(error))
        await self._report_size(
            _short(size, "out_of_memory", f"batch size {size} ran out of memory")
        )

    async def _report_size(self, facts: SizeFacts) -> None:
        self.sizes[facts.batch_size] = facts
        await self._report(size=facts)

    async def _report(self, **what: Any) -> None:
        standing = await patiently(
            self.bus, REPORT, Report(id=self.work.id, worker=self.worker, **what)
        )
        if not standing.run:
            raise LetGo


class Trying:
    """A module that is run once, in place of a model that is measured."""

    def __init__(self, work: Measurement, settings: WorkerSettings) -> None:
        self.work = work
        self.settings = settings
        self.verdict: Verdict | None = None
        self.finished = False
        self.canceled = False

    async def run(self) -> None:
        """Raises Failed where it could not be tried."""
        assert self.work.trial
        files = self.work.trial.files
        named = [file["path"] for file in yaml.safe_load(files["module.yaml"])["model"]["files"]]
        model = await fetch(self.work, self.settings, files=named)
        # Here, so that it is gone also when the process is killed.
        with tempfile.TemporaryDirectory(prefix="lilypad-trial-") as folder:
            async with started(TRY) as child:
                answer = await child.ask(
                    files=files, model=model, folder=folder, seconds=self.settings.longest_trial
                )
        self.verdict = Verdict.model_validate(answer)


async def fetch(work: Measurement, settings: WorkerSettings, **more: Any) -> str:
    """The folder with the model's files at its commit. Raises Failed."""
    environment = {"HF_ENDPOINT": settings.hf_endpoint, "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    if settings.hf_token:
        environment["HF_TOKEN"] = settings.hf_token.get_secret_value()
    if settings.hf_home:
        environment["HF_HOME"] = str(settings.hf_home)
    async with started(FETCH, environment) as child:
        answer = await child.ask(id=work.model.id, commit=work.model.commit, **more)
    return str(answer["folder"])


def _short(size: int, reason: Any, message: str) -> SizeFacts:
    return SizeFacts(
        batch_size=size, shortage=Shortage(batch_size=size, reason=reason, message=message)
    )


async def patiently(bus: Bus, rpc: Rpc[Any, Any], request: Any) -> Any:
    """Ask control, and again while it is away: what was measured is not thrown away for that.

    Raises:
        Unavailable: it stayed away.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while True:
        try:
            return await bus.call(rpc, request)
        except Unavailable:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(1)
