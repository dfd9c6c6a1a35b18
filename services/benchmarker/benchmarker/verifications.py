"""Handlers of verifications: modules that a worker runs once."""

from functools import partial

from benchmarker.admission import Application
from benchmarker.desk import MAX_WAITING_CALLERS, Desk
from benchmarker.refusals import check_room, weights_of
from benchmarker.runs import Row, new_id
from common.context import current
from common.contracts.benchmarking import BenchmarkRequest, Run, RunName, RunWait
from common.contracts.generation import GENERATE, Check, GenerateRequest, ModelFacts, Module
from common.contracts.measuring import (
    Announcement,
    Class,
    Measurement,
    ModelAt,
    Trial,
    version_for,
)
from common.contracts.verification import (
    CANCEL_VERIFICATION,
    GET_VERIFICATION,
    VERIFY,
    WAIT_FOR_VERIFICATION,
    Verdict,
    Verification,
    VerifiedModule,
)
from common.service import answers
from models.dtypes import DEFAULT_DTYPE


class Verifications:
    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    @answers(VERIFY)
    async def verify(self, request: GenerateRequest) -> VerifiedModule:
        """Generate a module and queue its verification; refuse modules that no worker can run."""
        module = await self.desk.bus.call(GENERATE, request)
        worker_class = class_for(module.model, await self.desk.fleet.present(), self.desk.deployed)
        work = work_of(new_id("verify"), module, worker_class)
        run, new = await self.desk.admission.accept(
            Application(current.get(), worker_class, work, 1, module)
        )
        if new:
            await self.desk.queue.fill_soon(worker_class)
        return await self.get(RunName(id=run.id))

    @answers(GET_VERIFICATION)
    async def get(self, request: RunName) -> VerifiedModule:
        return describe(*await self._find(request.id))

    @answers(WAIT_FOR_VERIFICATION, at_once=MAX_WAITING_CALLERS)
    async def wait(self, request: RunWait) -> VerifiedModule:
        read = partial(self._find, request.id)
        return describe(*await self.desk.news.until_over(request.id, request.seconds, read))

    @answers(CANCEL_VERIFICATION)
    async def cancel(self, request: RunName) -> VerifiedModule:
        account = current.get().account
        cancel = self.desk.runs.cancel(account, request.id, "verify", lambda _: None)
        await self.desk.queue.withdraw(*await cancel)
        return await self.get(request)

    async def _find(self, id: str) -> tuple[Run, Row]:
        return await self.desk.runs.find(current.get().account, id, "verify")


def class_for(model: ModelFacts, workers: list[Announcement], deployed: set[Class]) -> Class:
    """Return `gpu` if the module requests one and that class is present or deployed, else `cpu`.

    Raises:
        BenchmarkFailed: the weights do not fit the largest machine.
    """
    there = {worker.device_class for worker in workers} | deployed
    wanted: Class = "gpu" if model.vram_mib and "gpu" in there else "cpu"
    machines = [worker for worker in workers if worker.device_class == wanted]
    check_room(model, machines, DEFAULT_DTYPE[wanted])
    return wanted


def work_of(id: str, module: Module, worker_class: Class) -> Measurement:
    model, context = module.model, current.get()
    return Measurement(
        id=id,
        model=ModelAt(id=model.id, commit=model.commit, task=model.task, library=model.library),
        request=BenchmarkRequest(model_id=model.id),
        trial=Trial(files=module.files),
        read_by=model.read_by,
        version=version_for(model.read_by),
        weights=weights_of(model, DEFAULT_DTYPE[worker_class]),
        request_id=context.request_id,
        traceparent=context.traceparent,
    )


def describe(run: Run, row: Row) -> VerifiedModule:
    """Return the generated module; once verified, its checks include the verdict."""
    module = Module.model_validate(row["module"])
    verdict = Verdict.model_validate(row["verdict"]) if row["verdict"] else None
    validation = module.validation
    if verdict:
        outcome = "passed" if verdict.verdict == "passed" else "failed"
        if verdict.verdict == "not_run":
            outcome = "warning"
        checks = [
            *validation.checks,
            Check.model_validate({"name": "run", "outcome": outcome, "message": verdict.message}),
        ]
        outcomes = {check.outcome for check in checks}
        worst = next((o for o in ("failed", "warning") if o in outcomes), "passed")
        status = {"failed": "failed", "warning": "warnings", "passed": "passed"}[worst]
        errors = [check.message for check in checks if check.outcome != "passed"]
        validation = validation.model_validate(
            {"status": status, "errors": errors, "checks": checks}
        )
    return VerifiedModule(
        files=module.files,
        validation=validation,
        model=module.model,
        verification=Verification(
            verdict=verdict,
            **run.model_dump(
                include={
                    *("id", "state", "queue", "error"),
                    *("created_at", "started_at", "finished_at"),
                }
            ),
        ),
    )
