"""The stack that the gateway is compared with: FastAPI, slowapi on Redis, an httpx proxy.

    python gateway_peer.py proxy PORT REDIS_PORT BEHIND_PORT
    python gateway_peer.py behind PORT

Runs in `.venv-bench`, so nothing of the project is imported here.
"""

import sys
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel
from slowapi import Limiter
from slowapi.errors import RateLimitExceeded
from slowapi.middleware import SlowAPIMiddleware

KEYS = {"secret": "account"}


class GenerateRequest(BaseModel):
    modelUrl: str  # noqa: N815  (as it is written on the wire)
    options: dict[str, Any] = {}
    revision: str | None = None


def key_of(request: Request) -> str:
    return request.headers.get("authorization", "")


def proxy(redis_port: int, behind_port: int) -> FastAPI:
    app = FastAPI()
    limiter = Limiter(
        key_func=key_of,
        storage_uri=f"redis://127.0.0.1:{redis_port}",
        default_limits=["100000000/minute"],
    )
    app.state.limiter = limiter
    app.add_exception_handler(RateLimitExceeded, lambda *_: Response(status_code=429))
    app.add_middleware(SlowAPIMiddleware)
    client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{behind_port}")

    @app.post("/v1/api/generate")
    async def generate(request: Request, body: GenerateRequest) -> Response:
        if request.headers.get("authorization", "").removeprefix("Bearer ") not in KEYS:
            raise HTTPException(401)
        answer = await client.post("/generate", json=body.model_dump())
        return Response(answer.content, answer.status_code, media_type="application/json")

    return app


def behind() -> FastAPI:
    app = FastAPI()

    @app.post("/generate")
    async def generate(body: GenerateRequest) -> dict[str, Any]:
        return {"files": {"Dockerfile": "FROM scratch"}, "model": body.modelUrl}

    return app


if __name__ == "__main__":
    kind, port, *others = sys.argv[1], int(sys.argv[2]), *map(int, sys.argv[3:])
    application = proxy(*others) if kind == "proxy" else behind()
    uvicorn.run(application, port=port, log_level="error", access_log=False)
