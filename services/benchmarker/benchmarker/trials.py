"""Modules that a worker runs once: which worker can, what it is told, what the caller reads."""

from typing import Any

from benchmarker.refusals import check_room, weights_of
from common.contracts.benchmarking import BenchmarkRequest, Run
from common.contracts.generation import Check, ModelFacts, Module
from common.contracts.measuring import Announcement, Class, Measurement, ModelAt, Trial
from common.contracts.verification import Verdict, Verification, VerifiedModule

# What modules compute in, unless they are told otherwise.
DTYPES: dict[Class, str] = {"gpu": "bfloat16", "cpu": "float32"}


def class_for(model: ModelFacts, workers: list[Announcement], deployed: set[Class]) -> Class:
    """A GPU for a module that asks for one, where there is one; it runs on a processor too.

    Raises:
        BenchmarkFailed: the largest machine has no room for its weights.
    """
    there = {worker.device_class for worker in workers} | deployed
    wanted: Class = "gpu" if model.vram_mib and "gpu" in there else "cpu"
    machines = [worker for worker in workers if worker.device_class == wanted]
    check_room(model, machines, DTYPES[wanted])
    return wanted


def work_of(id: str, module: Module, worker_class: Class) -> Measurement:
    model = module.model
    return Measurement(
        id=id,
        model=ModelAt(id=model.id, commit=model.commit, task=model.task, library=model.library),
        request=BenchmarkRequest(model_id=model.id),
        trial=Trial(files=module.files),
        weights=weights_of(model, DTYPES[worker_class]),
    )


def describe(run: Run, row: dict[str, Any]) -> VerifiedModule:
    """The module as it was made, with the verdict among its checks once there is one."""
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
