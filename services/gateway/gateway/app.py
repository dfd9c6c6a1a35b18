"""The gateway as one ASGI application: endpoints, pages and health, each with the envelope."""

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Match, Route

from common import context
from common.errors import INTERNAL, InvalidRequest, NotFound, ServiceError, Unavailable
from common.instruments import Histogram, Labels, MetricFamily, histograms
from gateway import answer, asyncapi, audit, documentation, pages
from gateway.addresses import Addresses
from gateway.answer import Send
from gateway.bodies import Receive
from gateway.door import Door, Guards, request_id_of
from gateway.endpoint import Endpoint, HttpScope
from gateway.keyring import KeyRing
from gateway.pages import Pages
from gateway.versions import PREFIXES

log = structlog.get_logger()

# Request headers that a page of an allowed origin may send, and response headers it may read.
CALLERS_HEADERS = [
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    "If-None-Match",
    "Prefer",
    "X-Lilypad-Beta",
    "X-Lilypad-Code",
    "X-Request-Id",
]
ANSWERS_HEADERS = [
    "Content-Disposition",
    "ETag",
    "Idempotent-Replayed",
    "Link",
    "Location",
    "RateLimit",
    "RateLimit-Policy",
    "Retry-After",
    "X-RateLimit-Limit",
    "X-RateLimit-Remaining",
    "X-RateLimit-Reset",
    "X-Request-Id",
]
HEALTH = {"/healthz", "/readyz"}
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
# Path at which the edge asks for a caller's account before it buffers a large body; the edge blocks
# it for everyone else.
ADMIT = "/admit"

Check = Callable[[], Awaitable[None]]


class Gateway:
    """The ASGI application, which routes each request to the `Door` of its endpoint.

    Paths without parameters, which carry most of the traffic, are looked up in
    a table; other paths, pages and unknown addresses go through FastAPI's
    router.
    """

    def __init__(
        self,
        endpoints: list[Endpoint],
        guards: Guards,
        keyring: KeyRing,
        public_url: str,
        checks: dict[str, Check],
        allowed_origins: Sequence[str] = (),
    ) -> None:
        self.checks = checks
        self.capacity = guards.capacity
        self.draining = guards.capacity.draining
        # If callers use TLS, HSTS forbids plain HTTP.
        self.hsts = answer.HSTS if public_url.startswith("https://") else []
        # Whether the log has said that the edge does not know that callers use TLS.
        self._warned = not self.hsts
        self.app = FastAPI(
            title="Lilypad Model Generator",
            docs_url=None,
            redoc_url=None,
            openapi_url=None,  # `documentation` serves it
            # It would redirect a caller from TLS to plain HTTP.
            redirect_slashes=False,
        )
        # Pages of these origins may call the API with a key; never with a cookie.
        self.allowed_origins = {origin.encode() for origin in allowed_origins}
        self.cross_origin = CORSMiddleware(
            self._answer,
            allow_origins=allowed_origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=CALLERS_HEADERS,
            expose_headers=ANSWERS_HEADERS,
        )
        self.doors: dict[tuple[str, str], Door] = {}
        # Not in the table: a caller may send `/keys/{key_id}` literally, as in the reference.
        self.doors_with_parameters: dict[tuple[str, str], Door] = {}
        # Requests that no door in the table served, by method, route and status.
        self._elsewhere = histograms()
        for prefix, version in PREFIXES.items():
            for endpoint in endpoints:
                if version in endpoint.versions:
                    self._serve(prefix + endpoint.path, Door(endpoint, guards, version))
        documentation.complete(self.app, public_url)
        asyncapi.add(self.app, public_url)
        self.pages = Pages(public_url)
        pages.add(self.app, self.pages, endpoints, guards, keyring)
        for path, check in (("/healthz", self._alive), ("/readyz", self._ready)):
            self.app.add_route(path, check, methods=["GET"], include_in_schema=False)
        self.addresses = Addresses(
            route.path for route in self.app.routes if isinstance(route, Route)
        )
        self.app.add_exception_handler(HTTPException, self._http_error)
        self.app.add_exception_handler(ServiceError, _service_error)
        self.app.add_exception_handler(Exception, _unexpected)

    def _serve(self, path: str, door: Door) -> None:
        doors = self.doors_with_parameters if "{" in path else self.doors
        doors[door.endpoint.method, path] = door
        route = documentation.route(door.endpoint, path, door.version)
        route.app = door
        self.app.router.routes.append(route)

    async def __call__(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not self._warned and (b"x-forwarded-proto", b"http") in scope["headers"]:
            self._warned = True
            log.warning(
                "a request arrived over http, though PUBLIC_URL is https: if a proxy in front of"
                " the edge terminates TLS, set TRUSTED_HOPS; until then all callers share one"
                " address and its limits, and pages refuse to log in"
            )
        draining = self.draining.is_set()
        if draining or self.hsts:
            send = _with(send, [*self.hsts, *(CLOSE if draining else [])])
        if self.allowed_origins and scope["path"].startswith(tuple(PREFIXES)):
            origin = dict(scope["headers"]).get(b"origin")
            if origin in self.allowed_origins:
                await self.cross_origin(scope, receive, send)
                return
        await self._answer(scope, receive, send)

    async def _answer(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        door = self.doors.get((scope["method"], path))
        if door is not None:
            await door(scope, receive, send)
            return
        if path.startswith(f"{ADMIT}/"):
            door = self.doors.get((scope["method"], path.removeprefix(ADMIT)))
            if door is not None:
                await door.admit(scope, send)
                return
        headers = dict(scope["headers"])
        request_id = request_id_of(headers)
        scope.setdefault("state", {})["request_id"] = request_id
        context.current.set(context.Context(request_id))
        audit.remember_origin(headers, scope)
        send = _completed(send, request_id)
        if path in HEALTH:
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), 0

        async def note_status(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._answer_elsewhere(scope, receive, note_status)
        door = getattr(scope.get("route"), "app", None)
        if not isinstance(door, Door) or status == HTTPStatus.METHOD_NOT_ALLOWED:
            route = "unmatched" if path.startswith(tuple(PREFIXES)) else "pages"
            method = scope["method"] if scope["method"] in METHODS else "_OTHER"
            labels = method, route, str(status)
            self._elsewhere[labels].observe(time.perf_counter() - start)

    async def _answer_elsewhere(self, scope: HttpScope, receive: Receive, send: Send) -> None:
        """Let FastAPI's router answer for a path with parameters, a page or an unknown path."""
        if scope["path"].startswith(tuple(PREFIXES)):
            await self.app(scope, receive, send)
            return
        try:
            self.capacity.take()
        except Unavailable as error:
            request_id = scope["state"]["request_id"]
            reply = answer.failure(error, "v1", request_id)
            await answer.send_answer(send, reply, request_id, [])
            return
        try:
            await self.app(scope, receive, send)
        finally:
            self.capacity.give_back()

    def families(self) -> Iterator[MetricFamily]:
        """Yield the gateway's metrics; a route is a path with the names of its parameters."""
        samples: dict[Labels, float | Histogram] = {
            (method, path, str(status)): histogram
            for (method, path), door in (self.doors | self.doors_with_parameters).items()
            for status, histogram in door.durations.items()
        }
        yield MetricFamily(
            "histogram",
            "http_server_request_duration_seconds",
            "Time from a request to its answer",
            ("http_request_method", "http_route", "http_response_status_code"),
            {**samples, **self._elsewhere},
        )
        active = {(): self.capacity.taken}
        yield MetricFamily("gauge", "http_server_active_requests", "Requests under way", (), active)

    async def _alive(self, request: Request) -> Response:
        """Answer while the event loop runs; only readiness checks the dependencies."""
        return _status(request, {"status": "ok"})

    async def _ready(self, request: Request) -> Response:
        if self.draining.is_set():
            raise Unavailable("the gateway is draining", retry_after=1)
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
            near = self.addresses.nearest(request.url.path)
            advice = f"; did you mean {near}?" if near else ";"
            refusal: ServiceError = NotFound(f"no such address{advice} /docs lists every address")
        elif error.status_code == 405:
            methods = sorted(self._methods(request))
            refusal = NotFound(
                f"{request.method} is not allowed at this address; send {' or '.join(methods)}",
                status=405,
            )
            headers["Allow"] = ", ".join(methods)
        else:
            refusal = InvalidRequest(str(error.detail), status=error.status_code)
        if _is_browser(request):
            response: Response = self.pages.show(
                "absent.html", request, refusal.status, error=refusal.message
            )
        else:
            response = await _service_error(request, refusal)
        response.headers.update(headers)
        return response

    def _methods(self, request: Request) -> set[str]:
        """Return the methods of all matching routes; Starlette names only the first route's."""
        if request.scope.get("root_path"):  # paths below it are files
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


# While stopping, each answer asks the caller to close its connection, so that none is cut.
CLOSE: answer.Headers = [(b"connection", b"close")]


def _with(send: Send, headers: answer.Headers) -> Send:
    async def adding(message: Any) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *headers]
        await send(message)

    return adding


def _completed(send: Send, request_id: str) -> Send:
    """Add the headers that FastAPI's own answers lack."""

    async def completed(message: Any) -> None:
        if message["type"] == "http.response.start":
            present = {name.lower() for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *((name, value) for name, value in answer.SAFE if name not in present),
            ]
            if b"x-request-id" not in present:
                message["headers"].append((b"x-request-id", request_id.encode()))
        await send(message)

    return completed


def _is_browser(request: Request) -> bool:
    """Whether the `Accept` header prefers a page to JSON, as a browser's does."""
    accept = request.headers.get("accept", "")
    return answer.preferred(accept, {"text/html", "application/json"}) == "text/html"


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    version = "v2" if request.url.path.startswith("/v2/") else "v1"
    reply = answer.failure(error, version, request.state.request_id)
    return Response(reply.content, reply.status, reply.headers, reply.media_type)


async def _unexpected(request: Request, _: Exception) -> Response:
    # Starlette has logged it.
    return await _service_error(request, ServiceError(INTERNAL))
