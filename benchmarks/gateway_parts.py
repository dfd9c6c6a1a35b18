"""Processes of the benchmark: `python -m benchmarks.gateway_parts bare PORT`, or `handler`."""

import sys

import uvicorn
import uvloop
from fastapi import FastAPI

from common import service
from common.contracts.generation import (
    GENERATE,
    GenerateRequest,
    ModelFacts,
    Module,
    Validation,
)
from common.settings import ServiceSettings

ANSWER = Module(
    files={"Dockerfile": "FROM scratch"},
    validation=Validation(status="passed", errors=[]),
    model=ModelFacts(
        id="a/b",
        commit="0" * 40,
        task="text-classification",
        library="transformers",
        license=None,
        parameters=None,
        weight_bytes=0,
        vram_mib=0,
        vram_source="headers",
    ),
)


def bare(port: int) -> None:
    """Return a bare endpoint that validates the same body and gives the same answer."""
    app = FastAPI()

    @app.post("/v1/api/generate")
    async def generate(_: GenerateRequest) -> Module:
        return ANSWER

    uvicorn.run(app, port=port, log_level="error", access_log=False)


async def handler() -> None:
    async with service.connect("generator", ServiceSettings.from_environment()) as answering:

        async def generate(_: GenerateRequest) -> Module:
            return ANSWER

        await answering.answer(GENERATE, generate)
        await answering.answer_discovery()
        await answering.run_until_stopped()


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        bare(int(sys.argv[2]))
    else:
        uvloop.run(handler())
