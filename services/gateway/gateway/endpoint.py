"""What happens to a request between the door and its handler.

In this order: is there room, request id, who calls, what they may, the body's
type, size, form and content, how often they asked, whether this was asked
before, the handler, the envelope. Who is known to ask too often is refused
before anything is read, and so is an address that registers too often.

An endpoint is an ASGI application of its own. FastAPI documents it, and finds
it where the path has parameters; but its dependency solving, response
validation and middleware stack stay out of the way of a request, which would
cost more than everything above together.
"""

import asyncio
import base64
import dataclasses
import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson
import structlog

from common import context
from common.contracts import Message
from common.errors import NotFound, PermissionDenied, ServiceError, Unauthenticated
from gateway import answer, audit, bodies, envelope, sessions
from gateway.accounts import Accounts
from gateway.answer import Answer, Headers, Send
from gateway.authentication import Authentication, Caller
from gateway.capacity import Capacity
from gateway.idempotency import Idempotency
from gateway.keyring import Scope
from gateway.limits import Limits, OverLimit, Standing, policy_header
from gateway.limits import headers as rate_headers
from gateway.sessions import Sessions
from gateway.versions import DEPRECATED, Version

__all__ = ["Answer", "Call", "Door", "Endpoint", "Guards", "Version"]

log = structlog.get_logger()

HttpScope = MutableMapping[str, Any]

REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
# Ten times what is asked for anywhere, but for a batch of records; and where little is asked for.
MOST_BYTES = bodies.LARGE
FEW_BYTES = 10_000
# What a key is refused that may be an attempt, and the name of the act.
REFUSALS: dict[type[Exception], str] = {NotFound: "not_found", PermissionDenied: "not_allowed"}


@dataclass(slots=True)
class Call:
    """A request, as far as a handler needs it."""

    scope: HttpScope
    headers: dict[bytes, bytes]
    request_id: str
    version: Version
    capacity: Capacity
    caller: Caller | None = None
    standings: list[Standing] = field(default_factory=list)

    @property
    def account(self) -> str:
        assert self.caller is not None, "only on endpoints that know their caller"
        return self.caller.account

    def path_parameter(self, name: str) -> str:
        """Raises InvalidRequest for what no id can look like."""
        value: str = self.scope["path_params"][name]
        bodies.check_parameter(name, value)
        return value


# Bytes are the JSON of a message, as another service wrote it.
Handler = Callable[[Call, Any], Awaitable[Message | bytes | Answer | None]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A path, what it takes and gives, who may call it, and the handler.

    Attributes:
        allows: the scope that the key must have; `"account"` for the person,
            by HTTP Basic or a session's cookie; None for anybody.
        limits: the policies that a request counts against, of the account, or of
            the address where anybody may call. The first counts every request,
            the others only those that are understood.
        idempotent: whether `Idempotency-Key` is honoured.
        query: what stands behind the question mark; the handler gets it for a body.
        parameters: what OpenAPI says of headers.
        later: whether the answer may be 202, with the work still under way.
    """

    method: str
    path: str
    handler: Handler
    reply: type[Message] | None = None
    summary: str
    tag: str
    allows: Scope | Literal["account"] | None = None
    body: type[Message] | None = None
    query: type[Message] | None = None
    most_bytes: int = MOST_BYTES
    status: int = 200
    errors: tuple[int, ...] = ()
    limits: tuple[str, ...] = ("api",)
    versions: tuple[Version, ...] = ("v1", "v2")
    media_type: str = "application/json"
    idempotent: bool = False
    parameters: tuple[dict[str, Any], ...] = ()
    later: bool = False


@dataclass(frozen=True)
class Guards:
    """What stands before every endpoint."""

    accounts: Accounts
    authentication: Authentication
    sessions: Sessions
    limits: Limits
    idempotency: Idempotency
    capacity: Capacity


class Door:
    """Serves an endpoint under one version of the API."""

    def __init__(self, endpoint: Endpoint, guards: Guards, version: Version = "v1") -> None:
        self.endpoint = endpoint
        self.guards = guards
        self.version = version
        self.challenge = "Basic" if endpoint.allows == "account" else "Bearer"
        deprecated = DEPRECATED.get((endpoint.method, endpoint.path, version))
        self.news: Headers = deprecated.to_headers() if deprecated else []
        # Where nothing was counted, what would have been.
        counted = [guards.limits.policies[name] for name in endpoint.limits]
        self.policy: Headers = [policy_header(counted)]
        # One large body is read at a time.
        self._large = asyncio.Lock()

    async def __call__(self, scope: HttpScope, receive: bodies.Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        capacity = self.guards.capacity
        call = Call(scope, headers, request_id_of(headers), self.version, capacity)
        try:
            capacity.take()
            try:
                reply = await self._answer(call, receive)
            finally:
                capacity.give_back()
        except Exception as error:  # noqa: BLE001  (whatever it is, the caller gets an answer)
            reply = self._failure(error, call)
            await self._note(error, call)
        standing = rate_headers(call.standings) if call.standings else self.policy
        await answer.send_answer(send, reply, call.request_id, standing + self.news)

    async def _answer(self, call: Call, receive: bodies.Receive) -> Answer:
        context.current.set(context.Context(call.request_id))
        audit.remember_origin(call.headers, call.scope)
        if self.endpoint.allows is None:
            return await self._admitted(call, receive)
        call.caller = await self._authenticate(call)
        account = call.caller.account
        trace = call.headers.get(b"traceparent", b"").decode("latin-1")
        context.current.set(context.Context(call.request_id, account, traceparent=trace))
        self.guards.capacity.take_for(account)
        try:
            return await self._admitted(call, receive)
        finally:
            self.guards.capacity.give_back_for(account)

    async def _admitted(self, call: Call, receive: bodies.Receive) -> Answer:
        limits, policies = self.guards.limits, self.endpoint.limits
        if call.caller is None:
            call.standings = await limits.admit(audit.network(), policies)
            return await self._work(call, (await self._understand(call, receive))[0])
        limits.refuse_if_over(call.account, policies[:1])
        try:
            body, raw = await self._understand(call, receive)
        except ServiceError:
            # What is not understood is a request all the same, but nothing more.
            call.standings = await limits.admit(call.account, policies[:1])
            raise
        key = call.headers.get(b"idempotency-key") if self.endpoint.idempotent else None
        if key is None:
            # All of them at once: one way to the bus and back.
            call.standings = await limits.admit(call.account, policies)
            return await self._work(call, body)
        return await self._once(call, key, body, raw)

    async def _understand(
        self, call: Call, receive: bodies.Receive
    ) -> tuple[Message | None, bytes]:
        """The body, read and as it came; raises for what this caller may not ask, or not so."""
        endpoint = self.endpoint
        caller = call.caller
        if caller is not None and caller.key is not None and endpoint.allows not in caller.scopes:
            raise PermissionDenied(
                f"this key may not: it lacks the scope {endpoint.allows}", scope=endpoint.allows
            )
        if self.version == "v2":
            await self._require_opt_in(call)
        if endpoint.query is not None:
            return bodies.parse_query(call.scope["query_string"], endpoint.query), b""
        if endpoint.body is None:
            return None, b""
        bodies.require_json(call.headers)
        if endpoint.most_bytes <= bodies.LARGE or bodies.is_small(call.headers):
            raw = await bodies.read(receive, call.headers, endpoint.most_bytes)
            return bodies.parse(raw, endpoint.body), raw
        # From its first byte on: those that wait are in the edge, which has them whole.
        async with self._large:
            raw = await bodies.read(receive, call.headers, endpoint.most_bytes)
            return await asyncio.to_thread(bodies.parse, raw, endpoint.body), raw

    async def _once(self, call: Call, key: bytes, body: Message | None, raw: bytes) -> Answer:
        endpoint, limits, idempotency = self.endpoint, self.guards.limits, self.guards.idempotency

        async def work(digest: str) -> Answer:
            passed_on = dataclasses.replace(context.current.get(), idempotency_key=digest)
            context.current.set(passed_on)
            try:
                # Only now: a repeated request costs no generation.
                if endpoint.limits[1:]:
                    await self._admit_more(call)
                return await self._work(call, body)
            except Exception as error:  # noqa: BLE001  (a failure is an answer, kept or not)
                await self._note(error, call)
                return self._failure(error, call)

        # However it was written: order of keys, white space, /api or /v1/api.
        request = orjson.dumps(
            [endpoint.method, endpoint.path, self.version, raw and orjson.loads(raw)],
            option=orjson.OPT_SORT_KEYS,
        )
        try:
            limits.refuse_if_over(call.account, endpoint.limits[1:])
        except OverLimit:
            replay = await idempotency.find(call.account, key, request)
            if replay is None:
                raise
            call.standings = await limits.admit(call.account, endpoint.limits[:1])
            return replay
        call.standings = await limits.admit(call.account, endpoint.limits[:1])
        return await idempotency.once(call.account, key, request, work)

    async def _admit_more(self, call: Call) -> None:
        """Count the work itself; what is refused does not count as a request either."""
        limits = self.guards.limits
        try:
            call.standings += await limits.admit(call.account, self.endpoint.limits[1:])
        except ServiceError:
            for standing in call.standings:
                limits.refund(call.account, standing)
            call.standings = []
            raise

    async def _work(self, call: Call, body: Message | None) -> Answer:
        result = await self.endpoint.handler(call, body)
        if isinstance(result, Answer):
            return result
        if result is None:
            return Answer(b"", status=204)
        return Answer(
            envelope.success(result, call.version, call.request_id), status=self.endpoint.status
        )

    def _failure(self, error: Exception, call: Call) -> Answer:
        if isinstance(error, OverLimit):
            call.standings = [*call.standings, error.standing]
        if not isinstance(error, ServiceError):
            log.error("request failed", path=call.scope["path"], exc_info=error)
            error = ServiceError("internal error")
        return answer.failure(error, call.version, call.request_id, self.challenge)

    async def _note(self, error: Exception, call: Call) -> None:
        """A key that reaches for what is not its account's, or beyond its scopes, leaves a trace.

        What a person does to the account is noted where it is done.
        """
        if call.caller is None or call.caller.key is None:
            return
        act = REFUSALS.get(type(error))
        if act is not None:
            ids = [audit.as_id(str(value)) for value in call.scope.get("path_params", {}).values()]
            details = {"key": call.caller.key, "path": self.endpoint.path, "ids": ids}
            await audit.note(self.guards.accounts.database, act, call.account, **details)

    async def _authenticate(self, call: Call) -> Caller:
        scheme, _, credentials = (
            call.headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        )
        if self.endpoint.allows == "account":
            return await self._authenticate_person(call, scheme.lower(), credentials)
        if scheme.lower() != "bearer":
            raise Unauthenticated("send an API key: Authorization: Bearer lmg_live_...")
        return await self.guards.authentication.authenticate(credentials.strip())

    async def _authenticate_person(self, call: Call, scheme: str, credentials: str) -> Caller:
        session = sessions.token_in(call.headers)
        if session is not None and not scheme:
            changes = self.endpoint.method != "GET"
            await self.guards.sessions.refuse_cross_site(call.headers, changes=changes)
            account = await self.guards.sessions.find(session)
        elif scheme == "basic":
            email, password = _basic(credentials)
            account = await self.guards.accounts.log_in(email, password)
            await self.guards.accounts.note_login(account)
            session = None  # whatever the cookie says
        else:
            raise Unauthenticated("send the account's e-mail and password with HTTP Basic")
        return Caller(account, None, frozenset(), session=session)

    async def _require_opt_in(self, call: Call) -> None:
        asked = call.headers.get(b"x-lilypad-beta")
        if asked is not None and asked.strip() == b"v2":
            return
        # As the switch is now: a request that says so itself costs no look.
        switched = asked is None and call.caller is not None
        if switched and (await self.guards.accounts.get(call.account)).beta:
            return
        raise PermissionDenied(
            "v2 is a beta: opt in by sending the header X-Lilypad-Beta: v2 with each request,"
            " or switch it on for the account in the dashboard"
        )


def request_id_of(headers: dict[bytes, bytes]) -> str:
    """The caller's own, if it is well-formed, else a new one."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if REQUEST_ID.fullmatch(given) else f"req_{secrets.token_hex(12)}"


def _basic(credentials: str) -> tuple[str, str]:
    try:
        email, colon, password = (
            base64.b64decode(credentials, validate=True).decode().partition(":")
        )
    except ValueError:  # no base64, no ASCII before it was decoded, or no UTF-8 after
        colon = ""
    if not colon or "\0" in email + password or len(email) > 254 or len(password) > 256:
        raise Unauthenticated("the Basic credentials are not base64 of e-mail:password")
    return email, password
