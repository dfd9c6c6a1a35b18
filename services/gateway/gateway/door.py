"""The path of a request to its handler, and of the answer back.

In this order: repeated headers, capacity, authentication, the account's
capacity, scope, opting in to v2, the query, the body's type, size, syntax and
content, the request limit, idempotency, the limits of costly work, the handler,
the envelope. Without an idempotency key, all limits are counted together. An
authenticated request over the request limit gets 429 even if it is invalid; if
the account is known to be over, its body is not read. Neither is that of a
network address that registers too often.

An endpoint is an ASGI application of its own. FastAPI documents it, and finds
it where the path has parameters; but requests bypass its dependency solving,
response validation and middleware, which would cost more than all of the above.
"""

import asyncio
import base64
import dataclasses
import re
import secrets
import time
from collections import defaultdict
from dataclasses import dataclass

import orjson
import structlog

from common import context, tracing
from common.contracts import Message
from common.errors import (
    INTERNAL,
    NotFound,
    PermissionDenied,
    RateLimited,
    ServiceError,
    Unauthenticated,
)
from common.instruments import Histogram
from gateway import answer, audit, bodies, envelope, second_factor, sessions
from gateway.accounts import Accounts
from gateway.answer import Answer, Headers, Send
from gateway.authentication import Authentication, Caller
from gateway.capacity import Capacity
from gateway.deletion import Deletion
from gateway.endpoint import Call, Endpoint, HttpScope
from gateway.generations import GenerationLog
from gateway.idempotency import Idempotency
from gateway.limits import Limits, OverLimit, policy_header, service_standing
from gateway.limits import headers as rate_headers
from gateway.recovery import Recovery
from gateway.sessions import Sessions
from gateway.usage import UsageCounts
from gateway.versions import DEPRECATED, Version

log = structlog.get_logger()

HEADER_NAME, MAX_CODE_CHARACTERS = second_factor.HEADER.lower().encode(), 40
REQUEST_ID = re.compile(rb"[A-Za-z0-9_-]{8,64}")
# Refusals of a key that may be attacks, with the act that the audit records.
REFUSALS: dict[type[Exception], str] = {NotFound: "not_found", PermissionDenied: "not_allowed"}


@dataclass(frozen=True)
class Guards:
    """The parts that check a request before its handler runs."""

    accounts: Accounts
    authentication: Authentication
    sessions: Sessions
    deletion: Deletion
    recovery: Recovery
    limits: Limits
    idempotency: Idempotency
    capacity: Capacity
    generations: GenerationLog
    usage: UsageCounts


class Door:
    """An ASGI application that serves an endpoint under one version of the API."""

    def __init__(self, endpoint: Endpoint, guards: Guards, version: Version = "v1") -> None:
        self.endpoint = endpoint
        self.guards = guards
        self.version = version
        self.challenge = "Basic" if endpoint.allows == "account" else "Bearer"
        deprecated = DEPRECATED.get((endpoint.method, endpoint.path, version))
        self.deprecation: Headers = deprecated.to_headers() if deprecated else []
        # Sent with answers to requests that were not counted.
        counted = [guards.limits.policies[name] for name in endpoint.limits]
        self.policy: Headers = [policy_header(counted)]
        # One large body is read at a time.
        self._large = asyncio.Lock()
        self.name = f"{endpoint.method} {endpoint.path}"
        self.attributes = {
            "http.request.method": endpoint.method,
            "http.route": endpoint.path,
        }
        # By status; callers' requests only, not the edge's admission requests.
        self.durations: defaultdict[int, Histogram] = defaultdict(Histogram)

    async def __call__(self, scope: HttpScope, receive: bodies.Receive, send: Send) -> None:
        start = time.perf_counter()
        headers = dict(scope["headers"])
        capacity = self.guards.capacity
        call = Call(scope, headers, request_id_of(headers), self.version, capacity)
        if b"traceparent" in headers:
            call.traceparent = tracing.read(headers[b"traceparent"])
        if tracing.tracer is None:
            status = await self._serve(call, receive, send)
        else:
            call.traceparent = tracing.tracer.decide(call.traceparent)
            context.current.set(context.Context(call.request_id, traceparent=call.traceparent))
            with tracing.span(self.name, "server", self.attributes) as span:
                call.traceparent = context.current.get().traceparent
                status = await self._serve(call, receive, send)
                if span is not None:
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        tracing.tracer.fail(span, str(status))
        self.durations[status].observe(time.perf_counter() - start)

    async def _serve(self, call: Call, receive: bodies.Receive, send: Send) -> int:
        """Answer the request, and return the answer's status."""
        capacity = call.capacity
        try:
            bodies.refuse_repeated(call.scope["headers"])
            capacity.take()
            try:
                reply = await self._answer(call, receive)
            finally:
                capacity.give_back()
        except Exception as error:  # noqa: BLE001  (whatever it is, the caller gets an answer)
            reply = self._failure(error, call)
            await self._note(error, call)
        counted = call.error or (call.kind if reply.status < 400 else None)
        if counted and call.caller and call.caller.key:
            self.guards.usage.add(call.caller.account, call.caller.key, counted)
        standing = rate_headers(call.standings) if call.standings else self.policy
        await answer.send_answer(send, reply, call.request_id, standing + self.deprecation)
        return reply.status

    async def admit(self, scope: HttpScope, send: Send) -> None:
        """Answer the edge before it buffers a large body: 200 with the account, or the refusal."""
        headers = dict(scope["headers"])
        capacity = self.guards.capacity
        call = Call(scope, headers, request_id_of(headers), self.version, capacity)
        context.current.set(context.Context(call.request_id))
        audit.remember_origin(headers, scope)
        try:
            call.caller = await self._authenticate(call)
            self._require_scope(call.caller)
            self.guards.limits.refuse_if_over(call.account, self.endpoint.limits[:1])
            reply = Answer(b"", headers={"X-Lilypad-Account": call.account})
        except Exception as error:  # noqa: BLE001  (whatever it is, the edge gets an answer)
            reply = self._failure(error, call)
            await self._note(error, call)
        standing = rate_headers(call.standings) if call.standings else self.policy
        await answer.send_answer(send, reply, call.request_id, standing + self.deprecation)

    async def _answer(self, call: Call, receive: bodies.Receive) -> Answer:
        trace = call.traceparent
        context.current.set(context.Context(call.request_id, traceparent=trace))
        audit.remember_origin(call.headers, call.scope)
        if self.endpoint.allows is None:
            return await self._admitted(call, receive)
        call.caller = await self._authenticate(call)
        account = call.caller.account
        context.current.set(context.Context(call.request_id, account, traceparent=trace))
        self.guards.capacity.take_for(account)
        try:
            return await self._admitted(call, receive)
        finally:
            self.guards.capacity.give_back_for(account)

    async def _admitted(self, call: Call, receive: bodies.Receive) -> Answer:
        endpoint, limits, policies = self.endpoint, self.guards.limits, self.endpoint.limits
        if call.caller is None:
            call.standings = await limits.admit(audit.network(), policies)
            return await self._work(call, (await self._read_request(call, receive))[0])
        limits.refuse_if_over(call.account, policies[:1])
        try:
            body, raw = await self._read_request(call, receive)
        except ServiceError:
            # An invalid request still counts as a request, but against no further policy.
            call.standings = await limits.admit(call.account, policies[:1])
            raise
        if endpoint.kind:
            call.kind = endpoint.kind(body)
        key = call.headers.get(b"idempotency-key") if endpoint.idempotent else None
        if key is None:
            admission = limits.begin(call.account, policies)
            if not (admission.early and endpoint.harmless(body)):
                call.standings = await admission.standings()
                return await self._work(call, body)
            # The count and the work travel at the same time.
            try:
                return await self._work(call, body)
            finally:
                call.standings = await admission.standings()
        return await self._once(call, key, body, raw)

    async def _read_request(
        self, call: Call, receive: bodies.Receive
    ) -> tuple[Message | None, bytes]:
        """Check scope and version, and read the body or query; return it parsed and raw."""
        endpoint = self.endpoint
        if call.caller is not None:
            self._require_scope(call.caller)
        if self.version == "v2":
            await self._require_opt_in(call)
        if endpoint.query is not None:
            return bodies.parse_query(call.scope["query_string"], endpoint.query), b""
        bodies.refuse_query(call.scope["query_string"], endpoint.body)
        if endpoint.body is None:
            return None, b""
        bodies.require_json(call.headers)
        if endpoint.max_body_bytes <= bodies.LARGE_BODY_BYTES or bodies.is_small(call.headers):
            raw = await bodies.read(receive, call.headers, endpoint.max_body_bytes)
            return bodies.parse(raw, endpoint.body), raw
        # Held from the first byte on: the bodies that wait are buffered in the edge.
        async with self._large:
            raw = await bodies.read(receive, call.headers, endpoint.max_body_bytes)
            return await asyncio.to_thread(bodies.parse, raw, endpoint.body), raw

    def _require_scope(self, caller: Caller) -> None:
        scope = self.endpoint.allows
        if caller.key is not None and scope not in caller.scopes:
            raise PermissionDenied(
                f"API key lacks the scope `{scope}`; create one that has it, or add the scope",
                scope=scope,
            )

    async def _once(self, call: Call, key: bytes, body: Message | None, raw: bytes) -> Answer:
        endpoint, limits, idempotency = self.endpoint, self.guards.limits, self.guards.idempotency

        async def work(digest: str) -> Answer:
            passed_on = dataclasses.replace(context.current.get(), idempotency_key=digest)
            context.current.set(passed_on)
            try:
                # Only now: a repeated request must not count as a generation.
                if endpoint.limits[1:] and not call.joining:
                    await self._admit_more(call)
                return await self._work(call, body)
            except Exception as error:  # noqa: BLE001  (a failure is an answer, kept or not)
                await self._note(error, call)
                return self._failure(error, call)

        # Independent of spelling: key order, white space, /api or /v1/api.
        request = orjson.dumps(
            [endpoint.method, endpoint.path, self.version, raw and orjson.loads(raw)],
            option=orjson.OPT_SORT_KEYS,
        )
        joins = endpoint.joins(body)
        try:
            # A retry that joins work under way does not count again.
            limits.refuse_if_over(call.account, () if joins else endpoint.limits[1:])
        except OverLimit:
            replay = await idempotency.find(call.account, key, request)
            if replay is None:
                raise
            call.standings = await limits.admit(call.account, endpoint.limits[:1])
            return replay
        call.standings = await limits.admit(call.account, endpoint.limits[:1])

        async def join(digest: str) -> Answer:
            call.joining = True
            return await work(digest)

        joined = join if joins else None
        return await idempotency.once(call.account, key, request, work, joined)

    async def _admit_more(self, call: Call) -> None:
        """Count the work against further limits; if one refuses it, uncount the request as well."""
        limits = self.guards.limits
        try:
            call.standings += await limits.admit(call.account, self.endpoint.limits[1:])
        except ServiceError:
            limits.refund(call.account, call.standings)
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
        elif isinstance(error, RateLimited) and (standing := service_standing(error)):
            call.standings = [*call.standings, standing]
        if not isinstance(error, ServiceError):
            log.error("request failed", path=call.scope["path"], exc_info=error)
            error = ServiceError(INTERNAL)
        call.error = error.code
        return answer.failure(error, call.version, call.request_id, self.challenge)

    async def _note(self, error: Exception, call: Call) -> None:
        """Record a key that asks for another account's object, or beyond its scopes.

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
            raise Unauthenticated("no API key; send Authorization: Bearer lmg_live_...")
        return await self.guards.authentication.authenticate(credentials.strip())

    async def _authenticate_person(self, call: Call, scheme: str, credentials: str) -> Caller:
        session = sessions.token_in(call.headers)
        if session is not None and not scheme:
            changes = self.endpoint.method != "GET"
            await self.guards.sessions.refuse_cross_site(call.headers, changes=changes)
            account = await self.guards.sessions.find(session)
            owes_code = True
        elif scheme == "basic":
            email, password = _basic(credentials)
            code = call.headers.get(HEADER_NAME, b"").decode("latin-1")[:MAX_CODE_CHARACTERS]
            owes_code = self.endpoint.code_in_body and not code
            accounts = self.guards.accounts
            account = (await accounts.log_in(email, password, code, code_later=owes_code)).account
            if not owes_code:
                await accounts.note_login(account)
            session = None  # whatever the cookie says
        else:
            refused = "an API key cannot do this" if scheme == "bearer" else "no credentials"
            raise Unauthenticated(
                f"{refused}; send the account's e-mail address and password with HTTP Basic"
            )
        return Caller(account, None, frozenset(), session=session, owes_code=owes_code)

    async def _require_opt_in(self, call: Call) -> None:
        opted_in = call.headers.get(b"x-lilypad-beta")
        if opted_in is not None and opted_in.strip() == b"v2":
            return
        # Read the switch only now: a request with the header needs no look-up.
        switched = opted_in is None and call.caller is not None
        if switched and (await self.guards.accounts.get(call.account)).beta:
            return
        raise PermissionDenied(
            "v2 is a beta: opt in by sending the header X-Lilypad-Beta: v2 with each request,"
            " or switch it on for the account in the dashboard"
        )


def request_id_of(headers: dict[bytes, bytes]) -> str:
    """Return the caller's request id if it is well-formed, else a new one."""
    sent = headers.get(b"x-request-id", b"")
    return sent.decode() if REQUEST_ID.fullmatch(sent) else f"req_{secrets.token_hex(12)}"


def _basic(credentials: str) -> tuple[str, str]:
    try:
        email, colon, password = (
            base64.b64decode(credentials, validate=True).decode().partition(":")
        )
    except ValueError:  # not base64, not ASCII before decoding, or not UTF-8 after it
        colon = ""
    if not colon or "\0" in email + password or len(email) > 254 or len(password) > 256:
        raise Unauthenticated("malformed Basic credentials; send base64 of e-mail:password")
    return email, password
