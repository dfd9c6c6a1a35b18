"""A job on a worker: the model is fetched, loaded, probed for memory and timed.

Control commits each report before the next step begins, so that another worker continues an
interrupted session with the next block.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import structlog
import yaml
from pydantic import ValidationError

from benchmarker import schedule, search
from benchmarker.memory import foreseen, rungs
from benchmarker.settings import WorkerSettings
from benchmarker.worker.cache import fetched
from benchmarker.worker.child import Child, Confinement, OutOfMemory, started
from benchmarker.worker.confinement import confined
from benchmarker.worker.control import RunTaken, call_control
from benchmarker.worker.process import Failed
from benchmarker.worker.sandbox import Sandbox
from common.bus import Bus
from common.contracts.figures import Ceilings, Device, EnergyUse, MemoryUse, Setup, Shortage
from common.contracts.measuring import (
    REPORT,
    SEARCHING,
    Measurement,
    Report,
    Samples,
    SizeFacts,
    Stage,
    Ticket,
)
from common.contracts.verification import Verdict
from models.dtypes import DEFAULT_DTYPE

log = structlog.get_logger()

MEASURE = "benchmarker.worker.measure"
TRY = "benchmarker.worker.trial"
# Failures that one batch size may cause while smaller ones run: a kernel that counts in 32 bits
# raises, or ends the process.
SIZE_FAILURES = ("model", "crashed")


@dataclass(frozen=True)
class Holder:
    """The identity of a delivery, with its device and sandbox."""

    token: str
    device: Device
    sandbox: Sandbox


class Session:
    verdict: Verdict | None = None

    def __init__(
        self, bus: Bus, work: Measurement, holder: Holder, ticket: Ticket, settings: WorkerSettings
    ) -> None:
        self.bus = bus
        self.work = work
        self.worker = holder.token
        self.settings = settings
        self.device: Device = holder.device
        self.sandbox = holder.sandbox
        self.done = set(ticket.blocks)
        self.sizes = {facts.batch_size: facts for facts in ticket.sizes}
        self.looked = dict(ticket.looked)
        self.chosen = ticket.chosen
        self.before = ticket.setup
        self.hub_token = ticket.hub_token
        self.setup: Setup | None = None
        self.finished = False
        self.canceled = False
        self._begun: set[Stage] = set()

    async def run(self) -> None:
        """Fetch and measure the model.

        Raises:
            Failed: the run fails with this reason.
            RunTaken: another worker holds the run, or it was canceled.
        """
        async with fetched(self.work, self.settings, self.hub_token) as folder:
            await self._begin("loading")
            await self.measure(folder)

    async def measure(self, folder: str) -> None:
        """Measure the missing figures of the model in a folder. Raises like `run`.

        Each process is forked off one that has imported the libraries, in the run's own sandbox.
        """
        memory = None if self.device == "cuda" else self.settings.max_memory_mib
        with confined(self.sandbox, folder, self.settings.memory_share, memory) as confinement:
            while True:
                async with started(MEASURE, {"HF_HUB_OFFLINE": "1"}, confinement) as child:
                    while not await self._measured(child, folder):
                        if not await child.renew():
                            break
                    else:
                        return

    async def _measured(self, child: Child, folder: str) -> bool:
        """Measure in the child's current process; return False to continue in another.

        A process that ran out of memory measures nothing more. On a CPU, memory is probed in a
        process of its own: one that returns freed memory at once would be timed too slow.
        """
        apart = self.device == "cpu" and bool(self._unprobed())
        await self._load(child, folder, gives_back=apart)
        await self._begin("warming")
        if self.device == "cpu" and not apart and self._unprobed():
            return False  # the earlier figures are another machine's
        return await self._probe_all(child) and not apart and await self._time_all(child)

    def _unprobed(self) -> list[int]:
        wanted = rungs(self.work.request.batch_sizes or search.GRID)
        return [size for size in wanted if size not in self.sizes]

    async def _probe_all(self, child: Child) -> bool:
        """Measure the memory of each size, ascending; return False if one ended the process."""
        for size in self._unprobed():
            if not await self._probe(child, size):
                return False
        return True

    async def _time_all(self, child: Child) -> bool:
        """Time all sizes; return False to continue in a fresh process."""
        await self._begin("measuring")
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
        """Measure a size's energy; return False if the measurement ended the process."""
        survived = True
        try:
            answer = await child.request(do="energy", batchSize=facts.batch_size)
        except OutOfMemory as error:
            survived = False
            answer = {"missing": f"not measured: out of memory during the measurement ({error})"}
        except Failed as error:
            survived = False
            answer = {"missing": f"not measured: {error}"}
        energy = EnergyUse.model_validate(answer)
        await self._report_size(facts.model_copy(update={"energy": energy}))
        return survived

    async def _probe(self, child: Child, size: int) -> bool:
        """Measure a size's memory; return False if the measurement ended the process."""
        if (why_not := self._fails_before(size)) is not None:
            await self._report_size(_short(size, "not_measured", why_not))
            return True
        if (why_not := self._cannot_fit(size)) is not None:
            await self._report_size(_short(size, "predicted_out_of_memory", why_not))
            return True
        try:
            answer = await child.request(do="probe", batchSize=size)
        except OutOfMemory as error:
            await self._ran_out(size, error)
            return False
        except Failed as error:
            if error.reason not in SIZE_FAILURES or not self._smaller_ran(size):
                raise
            message = f"batch size {size} was not measured: {error}"
            await self._report_size(_short(size, "not_measured", message))
            return False
        memory = MemoryUse.model_validate(answer)
        await self._report_size(SizeFacts(batch_size=size, memory=memory))
        return True

    def _cannot_fit(self, size: int) -> str | None:
        """Return why a size cannot fit, according to other sizes; None if it may fit."""
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
            f"batch size {size} would take {too_much:,.0f} MiB by extrapolation;"
            f" {available:,.0f} MiB are available"
        )

    async def _time(self, child: Child, sizes: list[int]) -> bool:
        """Time the missing blocks; return False if one ended the process."""
        request = self.work.request
        moments = 1 + (self.setup.new_tokens or 0 if self.setup else 0)
        for block in schedule.blocks(sizes, request.iterations, request.seed, moments):
            if (block.round, block.batch_size) in self.done:
                continue
            try:
                answer = await child.request(
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
        """Search for the sizes to time in full; return False if one ended the process."""
        measured = {size: search.Sample(latency) for size, latency in self.looked.items()}
        short = [size for size in search.GRID if self._short(size)]
        measured |= dict.fromkeys(short[:1], search.Sample(None))
        budget = self.work.request.latency_budget_ms
        while (size := search.next_size(measured, search.GRID, budget)) is not None:
            try:
                answer = await child.request(
                    do="block", round=SEARCHING, batchSize=size, calls=search.SEARCH_CALLS,
                    warmup=self.work.request.warmup,
                )  # fmt: skip
            except OutOfMemory as error:
                await self._ran_out(size, error)
                return False
            samples = Samples.model_validate(answer)
            await self._report(samples=samples)
            self.looked[size] = samples.mean
            measured[size] = search.Sample(samples.mean)
        self.chosen = sorted(measured)
        await self._report(chosen=self.chosen)
        return True

    async def _load(self, child: Child, folder: str, *, gives_back: bool) -> None:
        """Measure the device's ceilings, load the model, and discard figures of another setup."""
        request, model = self.work.request, self.work.model
        dtype = request.dtype or DEFAULT_DTYPE[self.device]
        ceilings, missing = Ceilings(), {}
        if self.setup is None:
            try:
                answer = await child.request(do="ceilings", device=self.device, dtype=dtype)
                ceilings = Ceilings.model_validate(answer)
            except OutOfMemory:
                missing["ceilings"] = "too little memory to measure the device's ceilings"
        try:
            answer = await child.request(
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
                maxMemoryMib=self.settings.max_memory_mib,
                memoryShare=self.settings.memory_share,
                givesBack=gives_back,
            )
        except OutOfMemory as error:
            raise Failed(
                f"the model does not fit the worker's memory: {error}", "memory"
            ) from error
        if self.setup is None:
            setup = {**answer, "task": model.task, "commit": model.commit}
            setup["missingIsolation"] = list(self.sandbox.missing)
            setup["missing"] = {**answer.get("missing", {}), **missing}
            await self._settle(Setup.model_validate({**setup, "ceilings": ceilings}))

    async def _settle(self, setup: Setup) -> None:
        """Continue from an earlier worker's figures if its setup was equal; else start over."""
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
        """Return why a size is skipped; None unless the model fails at a smaller size."""
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

    async def _begin(self, stage: Stage) -> None:
        """Report the start of a stage, once."""
        if stage not in self._begun:
            self._begun.add(stage)
            await self._report(stage=stage)

    async def _report_size(self, facts: SizeFacts) -> None:
        self.sizes[facts.batch_size] = facts
        await self._report(size=facts)

    async def _report(self, **fields: Any) -> None:
        standing = await call_control(
            self.bus, REPORT, Report(id=self.work.id, worker=self.worker, **fields)
        )
        if not standing.run:
            raise RunTaken


class TrialSession:
    """A job that runs a module once, instead of measuring a model."""

    def __init__(
        self, work: Measurement, ticket: Ticket, settings: WorkerSettings, sandbox: Sandbox
    ) -> None:
        self.work = work
        self.hub_token = ticket.hub_token
        self.sandbox = sandbox
        self.settings = settings
        self.verdict: Verdict | None = None
        self.finished = False
        self.canceled = False

    async def run(self) -> None:
        """Fetch the model and run the module. Raises Failed if the trial could not take place."""
        assert self.work.trial
        files = self.work.trial.files
        asked = yaml.safe_load(files["module.yaml"])["resources"]["memoryMiB"]
        async with fetched(self.work, self.settings, self.hub_token) as model:
            with confined(self.sandbox, model, self.settings.memory_share, asked) as confinement:
                answer = await run_module(files, model, self.settings.max_trial_s, confinement)
        missing = self.sandbox.missing
        answer |= {"network": "unused" if "network" in missing else "off"}
        try:
            self.verdict = Verdict.model_validate({**answer, "missingIsolation": missing})
        except ValidationError:
            raise Failed("the module's process answered no verdict", "crashed") from None


async def run_module(
    files: Mapping[str, str], model: str, seconds: float, confinement: Confinement
) -> dict[str, Any]:
    """Run a module on the model in a folder; return the fields of its verdict."""
    async with started(TRY, None, confinement) as child:
        try:
            answer = await child.request(files=files, model=model, seconds=seconds)
        except OutOfMemory:
            if not (confinement.group and confinement.group.ran_out()):
                raise
            answer = {}
    if confinement.group and confinement.group.ran_out():
        message = "the module's processes together took more memory than a module of its size may"
        answer |= {"verdict": "failed", "message": message}
    return answer


def _short(size: int, reason: Any, message: str) -> SizeFacts:
    return SizeFacts(
        batch_size=size, shortage=Shortage(batch_size=size, reason=reason, message=message)
    )
