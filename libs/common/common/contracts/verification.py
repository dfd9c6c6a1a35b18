"""Modules that a worker runs once before they are handed out."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from common.contracts import Event, Message, Rpc
from common.contracts.benchmarking import Failure, Queue, RunName, RunWait, State
from common.contracts.figures import figure
from common.contracts.generation import GenerateRequest, Module


class Limits(Message):
    """What the module's process may take."""

    memory: float = Field(description="[MiB]", json_schema_extra={"unit": "MiB"})
    file: float = Field(description="Largest file [MiB]", json_schema_extra={"unit": "MiB"})
    seconds: float = Field(description="[s]", json_schema_extra={"unit": "s"})


class Verdict(Message):
    """What came of running the module's own script, in a fresh process, on a sample input."""

    verdict: Literal["passed", "failed", "not_run"]
    message: str = Field(description="Why, in one sentence.")
    network: Literal["off", "unused"] | None = Field(
        None, description="off: taken away; unused: the worker's system does not let it be."
    )
    sample: dict[str, Any] | None = Field(None, description="The request; long values shortened.")
    result: dict[str, Any] | None = Field(
        None, description="result.json as the module wrote it; long values shortened."
    )
    exit_code: int | None = None
    seconds: float | None = figure("s", "From the start of its process to the end.")
    peak_memory: float | None = figure(
        "MiB", "Largest resident set of its process, without files that were mapped then."
    )
    limits: Limits | None = None
    packages: dict[str, str] = Field(
        {}, description="Where the worker has another version than the module pins: which."
    )


class Verification(Message):
    """`succeeded` when there is a verdict, whichever it is; `failed` when it could not be had."""

    id: str
    state: State
    verdict: Verdict | None = None
    queue: Queue | None = None
    error: Failure | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class VerifiedModule(Module):
    """A module, and with `verify` what came of running it; its verdict is also a check."""

    verification: Verification | None = None


VERIFY = Rpc("rpc.benchmarker.verify", GenerateRequest, VerifiedModule, timeout=25.0)
GET_VERIFICATION = Rpc("rpc.benchmarker.verification", RunName, VerifiedModule)
CANCEL_VERIFICATION = Rpc("rpc.benchmarker.cancel_verification", RunName, VerifiedModule)
# Ends before a service that is stopping gives up on what it still answers.
WAIT_FOR_VERIFICATION = Rpc(
    "rpc.benchmarker.wait_for_verification", RunWait, VerifiedModule, timeout=18.0
)
TRIED = Event("event.benchmark.tried", RunName)
