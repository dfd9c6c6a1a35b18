"""The gateway as one ASGI application: endpoints, pages, health, and an envelope on all of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from common.errors import InvalidRequest, NotFound, ServiceError, Unavailable
from gateway import documentation, pages
from gateway.accounts import Accounts
from gateway.bodies import Receive
from gateway.endpoint import (
    Door,
    Endpoint,
    HttpScope,
    Send,
    Version,
    failure_answer,
    request_id_of,
)
from gateway.limits import Limits

# /api is the same thing as /v1/api.
PREFIXES: dict[str, Version] = {"/v1/api": "v1", "/api": "v1", "/v2/api": "v2"}

Check = Callable[[], Awaitable[None]]


class Gateway:
    """Finds the door of a request.

    Paths without parameters, which is where the traffic is, are looked up in
    a table; the others, the pages, and what does not exist go through
    FastAPI's router.
    """

    def __init__(
        self,
        endpoints: list[Endpoint],
        accounts: Accounts,
        limits: Limits,
        public_url: str,
        checks: dict[str, Check],
    ) -> None:
        self.draining = False
        self.checks = checks
        self.app = FastAPI(title="Lilypad Model Generator", docs_url=None, redoc_url=None)
        self.doors: dict[tuple[str, str], Door] = {}
        for prefix, version in PREFIXES.items():
            for endpoint in endpoints:
                if version in endpoint.versions:
                    self._serve(prefix + endpoint.path, Door(endpoint, accounts, limits, version))
        documentation.complete(self.app, public_url)
        pages.add(self.app, public_url)
        self.app.add_api_route("/healthz", self._alive, include_in_schema=False)
        self.app.add_api_route("/readyz", self._ready, include_in_schema=False)
        self.app.add_exception_handler(HTTPException, _http_error)
        self.app.add_exception_handler(ServiceError, _service_error)
        self.app.add_exception_handler(Exception, _unexpected)

    def _serve(self, path: str, door: Door) -> None:
        self.doors[door.endpoint.method, path] = door
        route = documentation.route(door.endpoint, path, door.version)
        route.app = door
        self.app.router.routes.append(route)

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if self.draining:
            send = _closing(send)
        door = self.doors.get((scope["method"], scope["path"]))
        if door is not None:
            await door(scope, receive, send)
            return
        request_id = request_id_of(dict(scope["headers"]))
        scope.setdefault("state", {})["request_id"] = request_id
        await self.app(scope, receive, _numbered(send, request_id))

    async def _alive(self, request: Request) -> Response:
        """Alive as long as the event loop turns; what it depends on is readiness."""
        return _status(request, {"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self.draining:
            raise Unavailable("stopping", retry_after=1)
        missing = []
        for name, check in self.checks.items():
            try:
                await check()
            except ServiceError:
                missing.append(name)
        if missing:
            raise Unavailable(f"waiting for {', '.join(missing)}", retry_after=1, missing=missing)
        return _status(request, {"status": "ready"})


def _status(request: Request, data: dict[str, Any]) -> Response:
    return Response(
        documentation.Status(**data).to_envelope(request.state.request_id),
        media_type="application/json",
    )


def _numbered(send: Send, request_id: str) -> Send:
    async def numbered(message: Any) -> None:
        if message["type"] == "http.response.start":
            headers = [(k, v) for k, v in message["headers"] if k.lower() != b"x-request-id"]
            message["headers"] = [*headers, (b"x-request-id", request_id.encode())]
        await send(message)

    return numbered


def _closing(send: Send) -> Send:
    """While stopping, each answer asks for its connection to be closed, so that none is cut."""

    async def closing(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"connection", b"close")]
        await send(message)

    return closing


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        answer: ServiceError = NotFound("there is nothing at this address; see /docs")
    elif error.status_code == 405:
        answer = NotFound("this address takes another method; see the Allow header", status=405)
    else:
        answer = InvalidRequest(str(error.detail), status=error.status_code)
    response = await _service_error(request, answer)
    response.headers.update(error.headers or {})
    return response


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    answer = failure_answer(error, "v1", request.state.request_id)
    return Response(answer.content, answer.status, answer.headers, answer.media_type)


async def _unexpected(request: Request, _: Exception) -> Response:
    # Starlette has logged it.
    return await _service_error(request, ServiceError("internal error"))
