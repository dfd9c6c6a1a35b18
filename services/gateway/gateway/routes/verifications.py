"""Routes of modules that a worker runs before they are returned."""

from common.bus import Bus
from common.contracts.benchmarking import OVER, RunName, RunWait
from common.contracts.generation import GenerateRequest
from common.contracts.verification import (
    CANCEL_VERIFICATION,
    GET_VERIFICATION,
    VERIFY,
    WAIT_FOR_VERIFICATION,
    Verification,
    VerifiedModule,
)
from common.errors import InvalidRequest
from gateway import envelope
from gateway.endpoint import Answer, Call, Route
from gateway.generations import GenerationLog
from gateway.waiting import MAX_WAIT_S, PREFER, preferred, until


async def verify(bus: Bus, generations: GenerationLog, call: Call, body: GenerateRequest) -> Answer:
    """Answer 200 with the verdict, or 202 until the module has run."""
    seconds = preferred(call)
    if seconds is None and call.version == "v1":
        raise _refusal(
            "running the module takes a while; use v2, or send Prefer: respond-async or"
            " Prefer: wait=<seconds>"
        )
    if seconds is None and call.joining:
        seconds = 0.0  # a retry lacks only the address, where it can wait
    module = await bus.call(VERIFY, body)
    generations.add(
        call.account, "verify", body, module.model, module.digest, _verification(module).id
    )
    module = await _wait(bus, call, module, MAX_WAIT_S if seconds is None else seconds)
    over = _verification(module).state in OVER
    where = f"/{call.version}/api/generate/{_verification(module).id}"
    return Answer(
        envelope.success(module, call.version, call.request_id),
        status=200 if over else 202,
        headers={} if over else {"Location": where},
    )


def refuse(body: GenerateRequest) -> None:
    """Raise InvalidRequest for `verify`: an archive cannot hold a verdict."""
    if body.verify:
        raise _refusal("use it with /generate; /download returns the same files, without a run")


def _refusal(fault: str) -> InvalidRequest:
    return InvalidRequest(f"verify: {fault}", fields=[{"path": "verify", "message": fault}])


class VerificationRoutes:
    """Routes that return and cancel the runs of modules generated with `verify`."""

    tag = "Model generation"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    @Route(
        "GET",
        "/generate/{id}",
        summary="Get a verified module",
        allows="generate",
        reply=VerifiedModule,
        errors=(404,),
        parameters=(PREFER,),
    )
    async def get_verification(self, call: Call, _: None) -> VerifiedModule:
        """Return a module generated with `verify`, and the progress of its run.

        `Prefer: wait=<seconds>` holds the answer until it ends.
        """
        name = RunName(id=call.path_parameter("id"))
        module = await self.bus.call(GET_VERIFICATION, name)
        return await _wait(self.bus, call, module, preferred(call) or 0.0)

    @Route(
        "DELETE",
        "/generate/{id}",
        summary="Cancel a module's run",
        allows="generate",
        reply=VerifiedModule,
        errors=(404,),
    )
    async def cancel_verification(self, call: Call, _: None) -> VerifiedModule:
        """Cancel the module's run; the module and a finished run stay as they are."""
        return await self.bus.call(CANCEL_VERIFICATION, RunName(id=call.path_parameter("id")))


async def _wait(bus: Bus, call: Call, module: VerifiedModule, seconds: float) -> VerifiedModule:
    async def poll(left: float) -> VerifiedModule:
        return await bus.call(
            WAIT_FOR_VERIFICATION, RunWait(id=_verification(module).id, seconds=left)
        )

    return await until(
        call, module, lambda latest: _verification(latest).state in OVER, poll, seconds
    )


def _verification(module: VerifiedModule) -> Verification:
    assert module.verification, "the benchmarker says so of every module that it keeps"
    return module.verification
