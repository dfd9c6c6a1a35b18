"""The gateway as one ASGI application: endpoints, pages, health, and an envelope on all of it."""

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from common import context
from common.errors import InvalidRequest, NotFound, ServiceError, Unavailable
from gateway import answer, audit, dashboard, documentation, pages
from gateway.answer import Send
from gateway.bodies import Receive
from gateway.dashboard import Dashboard
from gateway.endpoint import Door, Endpoint, Guards, HttpScope, request_id_of
from gateway.keyring import KeyRing
from gateway.pages import Pages
from gateway.versions import PREFIXES

HEALTH = {"/healthz", "/readyz"}

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
        guards: Guards,
        keyring: KeyRing,
        public_url: str,
        checks: dict[str, Check],
    ) -> None:
        self.draining = False
        self.checks = checks
        self.capacity = guards.capacity
        # Where callers come over TLS, they are told never to come without.
        self.everywhere = answer.HSTS if public_url.startswith("https://") else []
        self.app = FastAPI(
            title="Lilypad Model Generator",
            docs_url=None,
            redoc_url=None,
            # It would send a caller who came over TLS to where anybody can listen.
            redirect_slashes=False,
        )
        self.doors: dict[tuple[str, str], Door] = {}
        for prefix, version in PREFIXES.items():
            for endpoint in endpoints:
                if version in endpoint.versions:
                    self._serve(prefix + endpoint.path, Door(endpoint, guards, version))
        documentation.complete(self.app, public_url)
        shown = Pages(public_url)
        pages.add(self.app, shown)
        dashboard.add(self.app, Dashboard(guards, keyring, shown))
        for path, check in (("/healthz", self._alive), ("/readyz", self._ready)):
            self.app.add_route(path, check, methods=["GET"], include_in_schema=False)
        self.app.add_exception_handler(HTTPException, self._http_error)
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
        if self.draining or self.everywhere:
            send = _with(send, [*self.everywhere, *(CLOSE if self.draining else [])])
        path = scope["path"]
        door = self.doors.get((scope["method"], path))
        if door is not None:
            await door(scope, receive, send)
            return
        headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        context.current.set(context.Context(request_id))
        audit.remember_origin(headers, scope)
        send = _completed(send, request_id)
        if path in HEALTH or path.startswith(tuple(PREFIXES)):  # a door counts for itself
            await self.app(scope, receive, send)
            return
        try:
            self.capacity.take()
        except Unavailable as error:
            reply = answer.failure(error, "v1", request_id)
            await answer.send_answer(send, reply, request_id, [])
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.capacity.give_back()

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

    async def _http_error(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        headers = dict(error.headers or {})
        if error.status_code == 404:
            refusal: ServiceError = NotFound("there is nothing at this address; see /docs")
        elif error.status_code == 405:
            refusal = NotFound(
                "this address takes another method; see the Allow header", status=405
            )
            headers["Allow"] = ", ".join(sorted(self._methods(request)))
        else:
            refusal = InvalidRequest(str(error.detail), status=error.status_code)
        response = await _service_error(request, refusal)
        response.headers.update(headers)
        return response

    def _methods(self, request: Request) -> set[str]:
        """Of all routes with the address; Starlette would name those of the first."""
        if request.scope.get("root_path"):  # below it are files
            return {"GET", "HEAD"}
        return {
            method
            for route in self.app.routes
            if isinstance(route, Route) and route.matches(request.scope)[0] != Match.NONE
            for method in route.methods or ()
        }


def _status(request: Request, data: dict[str, Any]) -> Response:
    return Response(
        documentation.Status(**data).to_envelope(request.state.request_id),
        media_type="application/json",
    )


# While stopping, each answer asks for its connection to be closed, so that none is cut.
CLOSE: answer.Headers = [(b"connection", b"close")]


def _with(send: Send, headers: answer.Headers) -> Send:
    async def adding(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return adding


def _completed(send: Send, request_id: str) -> Send:
    """What every answer of ours has and FastAPI does not know."""

    async def completed(message: Any) -> None:
        if message["type"] == "http.response.start":
            there = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((name, value) for name, value in answer.SAFE if name not in there),
            ]
            if b"x-request-id" not in there:
                message["headers"].append((b"x-request-id", request_id.encode()))
        await send(message)

    return completed


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    version = "v2" if request.url.path.startswith("/v2/") else "v1"
    reply = answer.failure(error, version, request.state.request_id)
    return Response(reply.content, reply.status, reply.headers, reply.media_type)


async def _unexpected(request: Request, _: Exception) -> Response:
    # Starlette has logged it.
    return await _service_error(request, ServiceError("internal error"))
