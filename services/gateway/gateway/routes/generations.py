import orjson

from common.bus import Bus
from common.contracts.generation import GENERATE, PACKAGE, GenerateRequest, ModelFacts
from common.contracts.verification import VerifiedModule
from gateway.door import Guards
from gateway.endpoint import Answer, Call, Route
from gateway.generations import Generations, GenerationsRequest
from gateway.routes import verifications
from gateway.tenants import set_tenant
from gateway.usage import UsageKind
from gateway.waiting import PREFER


def _runs(body: GenerateRequest) -> bool:
    return body.verify


def _kind(body: GenerateRequest) -> UsageKind:
    return "verify" if body.verify else "generate"


class GenerationRoutes:
    """Routes that generate a module, as JSON or as an archive, and list modules."""

    tag = "Model generation"

    def __init__(self, bus: Bus, guards: Guards) -> None:
        self.bus = bus
        self.guards = guards

    @Route(
        "POST",
        "/generate",
        summary="Generate a module from a model",
        allows="generate",
        limits=("api", "generate"),
        body=GenerateRequest,
        reply=VerifiedModule,
        errors=(404, 422, 502),
        idempotent=True,
        joins=_runs,
        later=True,
        kind=_kind,
        parameters=(PREFER,),
    )
    async def generate(self, call: Call, body: GenerateRequest) -> bytes | Answer:
        """Generate the files of a module that runs the model, and check them.

        Omitted `options` are derived from the model. With `verify`, a worker runs
        the module without a network, and the answer contains the verdict: v2
        waits for it, v1 only if `Prefer` asks for that. If it takes longer, the
        answer is 202 with an address in `Location`. A retry with the same
        `Idempotency-Key` during the run gets that address, too.
        """
        if body.verify:
            await set_tenant(self.guards.accounts.database, call.account)
            return await verifications.verify(self.bus, self.guards.generations, call, body)
        content = await self.bus.pass_on(GENERATE, body)
        module = orjson.loads(content)
        model = ModelFacts.model_validate(module["model"])
        self.guards.generations.add(call.account, "generate", body, model, module.get("digest"))
        return content

    @Route(
        "POST",
        "/download",
        summary="Download the module as a zip",
        allows="generate",
        limits=("api", "generate"),
        body=GenerateRequest,
        media_type="application/zip",
        errors=(404, 422, 502),
        kind=_kind,
    )
    async def download(self, call: Call, body: GenerateRequest) -> Answer:
        """Generate a module as `/generate` does, and return it as an archive.

        The same commit of the model, options and version of the generator give
        the same bytes; `If-None-Match` is honoured.
        """
        verifications.refuse(body)
        package = await self.bus.call(PACKAGE, body)
        headers = {
            "ETag": f'"{package.sha256}"',
            "Content-Disposition": f'attachment; filename="{package.filename}"',
            "Cache-Control": "private, no-cache",
        }
        if _has_current_copy(call, headers["ETag"]):
            return Answer(b"", status=304, headers=headers)
        if package.model is not None:
            self.guards.generations.add(
                call.account, "download", body, package.model, package.sha256
            )
        return Answer(package.content, "application/zip", headers=headers)

    @Route(
        "GET",
        "/generations",
        summary="List generated modules",
        allows="generate",
        query=GenerationsRequest,
        reply=Generations,
    )
    async def list_generations(self, call: Call, query: GenerationsRequest) -> Generations:
        """List the account's modules of the last 400 days, newest first, without their files.

        A module is listed within a second of its answer.

        An entry's `request`, sent to `/generate` or `/download` unchanged, generates the module
        again from the same commit; equal `digest`s mean equal bytes.
        """
        return await self.guards.generations.page(call.account, query)


def _has_current_copy(call: Call, tag: str) -> bool:
    """Whether `If-None-Match` names the tag, in a list or weakly (RFC 9110, 13.1.2)."""
    named = call.headers.get(b"if-none-match", b"").decode("latin-1").split(",")
    return not {"*", tag, f"W/{tag}"}.isdisjoint(name.strip() for name in named)
