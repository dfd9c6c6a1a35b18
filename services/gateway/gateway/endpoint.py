"""What happens to a request between the door and its handler.

In this order: request id, who calls, what they may, how often, the body's
type, size, form and content, the handler, the envelope.

An endpoint is an ASGI application of its own. FastAPI documents it, and finds
it where the path has parameters; but its dependency solving, response
validation and middleware stack stay out of the way of a request, which would
cost more than everything above together.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from common import context
from common.contracts import Message
from common.errors import PermissionDenied, ServiceError, Unauthenticated
from gateway import bodies, envelope
from gateway.accounts import Accounts, Caller, Scope
from gateway.limits import Limits, OverLimit, Standing
from gateway.limits import headers as rate_headers

log = structlog.get_logger()

Version = Literal["v1", "v2"]
HttpScope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
# What one message on the bus carries, with room for its envelope there.
MOST_BYTES = 1_000_000


@dataclass(slots=True)
class Call:
    """A request, as far as a handler needs it."""

    scope: HttpScope
    headers: dict[bytes, bytes]
    request_id: str
    version: Version = "v1"
    caller: Caller | None = None
    standings: list[Standing] = field(default_factory=list)

    @property
    def account(self) -> str:
        assert self.caller is not None, "only on endpoints that know their caller"
        return self.caller.account

    def path_parameter(self, name: str) -> str:
        value: str = self.scope["path_params"][name]
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not JSON in the envelope, or has headers of its own."""

    content: bytes
    media_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Handler = Callable[[Call, Any], Awaitable[Message | Answer | None]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A path, what it takes and gives, who may call it, and the handler.

    `allows` says who: a scope that the key must have, `"password"` for HTTP
    Basic with the account's e-mail and password, or None for anybody.
    `limits` names the policies that a request counts against, where the
    caller is known.
    """

    method: str
    path: str
    handler: Handler
    reply: type[Message] | None = None
    summary: str
    tag: str
    allows: Scope | Literal["password"] | None = None
    body: type[Message] | None = None
    most_bytes: int = MOST_BYTES
    status: int = 200
    errors: tuple[int, ...] = ()
    limits: tuple[str, ...] = ("api",)
    versions: tuple[Version, ...] = ("v1", "v2")
    media_type: str = "application/json"


class Door:
    """Serves an endpoint under one version of the API."""

    def __init__(
        self, endpoint: Endpoint, accounts: Accounts, limits: Limits, version: Version = "v1"
    ) -> None:
        self.endpoint = endpoint
        self.accounts = accounts
        self.limits = limits
        self.version = version

    async def __call__(self, scope: HttpScope, receive: bodies.Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        call = Call(scope, headers, request_id_of(headers), self.version)
        try:
            answer = await self._answer(call, receive)
        except ServiceError as error:
            answer = _failure(error, call)
            if isinstance(error, OverLimit):
                call.standings = [error.standing]
        except Exception:
            log.exception("request failed", path=scope["path"])
            answer = _failure(ServiceError("internal error"), call)
        standing = rate_headers(call.standings) if call.standings else []
        await send_answer(send, answer, call.request_id, standing)

    async def _answer(self, call: Call, receive: bodies.Receive) -> Answer:
        endpoint = self.endpoint
        context.current.set(context.Context(call.request_id))
        if endpoint.allows is not None:
            call.caller = await self._authenticate(call)
            trace = call.headers.get(b"traceparent", b"").decode("latin-1")
            context.current.set(
                context.Context(call.request_id, call.caller.account, traceparent=trace)
            )
        if self.version == "v2" and call.headers.get(b"x-lilypad-beta", b"").strip() != b"v2":
            raise PermissionDenied(
                "v2 is a beta: opt in by sending the header X-Lilypad-Beta: v2 with each request"
            )
        if call.caller is not None:
            call.standings = await self.limits.admit(call.account, endpoint.limits)
        body = None
        if endpoint.body is not None:
            bodies.require_json(call.headers)
            raw = await bodies.read(receive, call.headers, endpoint.most_bytes)
            body = bodies.parse(raw, endpoint.body)
        result = await endpoint.handler(call, body)
        if isinstance(result, Answer):
            return result
        if result is None:
            return Answer(b"", status=204)
        return Answer(
            envelope.success(result, call.version, call.request_id), status=endpoint.status
        )

    async def _authenticate(self, call: Call) -> Caller:
        scheme, _, credentials = (
            call.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        )
        if self.endpoint.allows == "password":
            if scheme.lower() != "basic":
                raise Unauthenticated("send the account's e-mail and password with HTTP Basic")
            email, password = _basic(credentials)
            return await self.accounts.log_in(email, password)
        if scheme.lower() != "bearer":
            raise Unauthenticated("send an API key: Authorization: Bearer lmg_live_...")
        caller = await self.accounts.authenticate(credentials.strip())
        if self.endpoint.allows not in caller.scopes:
            raise PermissionDenied(
                f"this key may not: it lacks the scope {self.endpoint.allows}",
                scope=self.endpoint.allows,
            )
        return caller


def request_id_of(headers: dict[bytes, bytes]) -> str:
    """The caller's own, if it is well-formed, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def failure_answer(error: ServiceError, version: str, request_id: str) -> Answer:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="lilypad"'
    content = envelope.failure(error, version, request_id)
    return Answer(content, status=error.status, headers=headers)


def _failure(error: ServiceError, call: Call) -> Answer:
    return failure_answer(error, call.version, call.request_id)


async def send_answer(
    send: Send, answer: Answer, request_id: str, more: list[tuple[bytes, bytes]]
) -> None:
    headers = [
        (b"content-length", str(len(answer.content)).encode()),
        (b"x-request-id", request_id.encode()),
        *more,
    ]
    if answer.content:
        headers.append((b"content-type", answer.media_type.encode()))
    headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content})


def _basic(credentials: str) -> tuple[str, str]:
    try:
        email, colon, password = (
            base64.b64decode(credentials, validate=True).decode().partition(":")
        )
    except (binascii.Error, UnicodeDecodeError):
        colon = ""
    if not colon or "\0" in email + password:
        raise Unauthenticated("the Basic credentials are not base64 of e-mail:password")
    return email, password
