from common.bus import Bus
from common.contracts.generation import GENERATE, PACKAGE, GenerateRequest, Module
from gateway.endpoint import Answer, Call, Endpoint


def endpoints(bus: Bus) -> list[Endpoint]:
    async def generate(_: Call, body: GenerateRequest) -> bytes:
        """The files of a module that runs the model, and what was checked before handing them out.

        Anything left out of `options` is derived from the model.
        """
        return await bus.pass_on(GENERATE, body)

    async def download(call: Call, body: GenerateRequest) -> Answer:
        """What `/generate` answers, as an archive.

        It is the same byte for byte for the same commit of the model, options
        and version of the generator; `If-None-Match` is honoured.
        """
        package = await bus.call(PACKAGE, body)
        headers = {
            "ETag": f'"{package.sha256}"',
            "Content-Disposition": f'attachment; filename="{package.filename}"',
        }
        if call.headers.get(b"if-none-match", b"").decode("latin-1") == headers["ETag"]:
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
            reply=Module,
            errors=(404, 422, 502),
            idempotent=True,
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
    ]
