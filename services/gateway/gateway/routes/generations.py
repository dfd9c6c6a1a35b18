from common.bus import Bus
from common.contracts.generation import GENERATE, PACKAGE, GenerateRequest
from common.contracts.verification import VerifiedModule
from gateway.endpoint import Answer, Call, Endpoint
from gateway.routes import verifications
from gateway.waiting import PREFER


def endpoints(bus: Bus) -> list[Endpoint]:
    async def generate(call: Call, body: GenerateRequest) -> bytes | Answer:
        """The files of a module that runs the model, and what was checked before handing them out.

        Anything left out of `options` is derived from the model. With `verify`
        a worker runs the module, its network off, and the answer says what
        came of it: v2 waits for that, v1 only where `Prefer` says so. Where it
        takes longer the answer is 202, and `Location` says where to look.
        """
        if body.verify:
            return await verifications.verify(bus, call, body)
        return await bus.pass_on(GENERATE, body)

    async def download(call: Call, body: GenerateRequest) -> Answer:
        """What `/generate` answers, as an archive.

        It is the same byte for byte for the same commit of the model, options
        and version of the generator; `If-None-Match` is honoured.
        """
        verifications.refuse(body)
        package = await bus.call(PACKAGE, body)
        headers = {
            "ETag": f'"{package.sha256}"',
            "Content-Disposition": f'attachment; filename="{package.filename}"',
            "Cache-Control": "private, no-cache",
        }
        if _has_it(call, headers["ETag"]):
            return Answer(b"", status=304, headers=headers)
        return Answer(package.content, "application/zip", headers=headers)

    tag = "Model generation"
    return [
        Endpoint(
            method="POST",
            path="/generate",
            handler=generate,
            allows="generate",
            limits=("api", "generate"),
            body=GenerateRequest,
            reply=VerifiedModule,
            errors=(404, 422, 502),
            idempotent=True,
            later=True,
            parameters=(PREFER,),
            summary="Generate a module from a model",
            tag=tag,
        ),
        Endpoint(
            method="POST",
            path="/download",
            handler=download,
            allows="generate",
            limits=("api", "generate"),
            body=GenerateRequest,
            media_type="application/zip",
            errors=(404, 422, 502),
            summary="Download the module as a zip",
            tag=tag,
        ),
        *verifications.endpoints(bus),
    ]


def _has_it(call: Call, tag: str) -> bool:
    """Whether `If-None-Match` names it, in a list perhaps, or weakly (RFC 9110, 13.1.2)."""
    named = call.headers.get(b"if-none-match", b"").decode("latin-1").split(",")
    return not {"*", tag, f"W/{tag}"}.isdisjoint(one.strip() for one in named)
