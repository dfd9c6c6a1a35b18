"""Verification: a worker runs a module once, in isolation, and reports a verdict."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from common.contracts import Event, Message, Rpc
from common.contracts.benchmarking import Failure, Queue, RunName, RunWait, State
from common.contracts.figures import Isolation, figure
from common.contracts.generation import GenerateRequest, Module


class Limits(Message):
    """Limits of the module's process."""

    memory: float = Field(
        description="Largest resident set [MiB]", json_schema_extra={"unit": "MiB"}
    )
    file: float = Field(description="Largest file [MiB]", json_schema_extra={"unit": "MiB"})
    seconds: float = Field(description="Longest duration [s]", json_schema_extra={"unit": "s"})


class Verdict(Message):
    """Outcome of running the module's script in a fresh process on a sample input."""

    verdict: Literal["passed", "failed", "not_run"] = Field(
        description="Whether the module ran and gave an answer."
    )
    message: str = Field(description="Reason for the verdict, in one sentence.")
    network: Literal["off", "unused"] | None = Field(
        None,
        description="`off`: the process had no network; `unused`: the worker could not cut it off.",
    )
    missing_isolation: list[Isolation] = Field(
        [],
        description="Kinds of isolation that the worker's machine does not support.",
    )
    sample: dict[str, Any] | None = Field(None, description="Sample request; long values cut.")
    result: dict[str, Any] | None = Field(
        None, description="`result.json` as the module wrote it; long values cut."
    )
    exit_code: int | None = Field(
        None, description="Exit status of the module's process; null if it did not run."
    )
    seconds: float | None = figure("s", "Duration of the module's process.")
    peak_memory: float | None = figure(
        "MiB", "Largest resident set of the process, without mapped files."
    )
    limits: Limits | None = Field(None, description="Limits of the process.")
    packages: dict[str, str] = Field(
        {}, description="Packages whose version on the worker differs from the pinned one."
    )


class Verification(Message):
    """A verification: `succeeded` with a verdict of any kind, `failed` without one."""

    id: str = Field(description="Id of the verification.")
    state: State = Field(description="`succeeded`, `failed` and `canceled` are final.")
    verdict: Verdict | None = Field(
        None, description="Outcome of the trial; null until it has ended."
    )
    queue: Queue | None = Field(
        None, description="Position in the queue; null once the trial has started."
    )
    error: Failure | None = Field(None, description="Why there is no verdict; null otherwise.")
    created_at: datetime = Field(description="Time at which the verification was accepted.")
    started_at: datetime | None = Field(
        None, description="Time at which a worker started the trial."
    )
    finished_at: datetime | None = Field(None, description="Time at which the trial ended.")


class VerifiedModule(Module):
    """A module and, with `verify`, its verification, whose verdict is also one of the checks."""

    verification: Verification | None = Field(
        None, description="Verification, when `verify` is true."
    )


VERIFY = Rpc("rpc.benchmarker.verify", GenerateRequest, VerifiedModule, timeout=25.0)
GET_VERIFICATION = Rpc("rpc.benchmarker.verification", RunName, VerifiedModule, repeatable=True)
CANCEL_VERIFICATION = Rpc(
    "rpc.benchmarker.cancel_verification", RunName, VerifiedModule, repeatable=True
)
# Shorter than the grace that a stopping service gives its open requests.
WAIT_FOR_VERIFICATION = Rpc(
    "rpc.benchmarker.wait_for_verification", RunWait, VerifiedModule, timeout=18.0
)
TRIED = Event("event.benchmark.tried", RunName)
