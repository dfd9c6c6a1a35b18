"""Registering, logging in, and an account's keys, as pages.

Forms and redirects: everything works without a script. What a form sends goes
through the same models and the same rules as the API's bodies.
"""

import dataclasses
import secrets
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.responses import RedirectResponse, Response
from pydantic import ValidationError

from common import context
from common.errors import InvalidRequest, ServiceError, Unauthenticated
from common.service import invalid
from gateway import audit, bodies, keys, pages, sessions
from gateway.accounts import AccountChange, NewAccount
from gateway.answer import Answer
from gateway.endpoint import FEW_BYTES, Guards
from gateway.keyring import CreatedKey, KeyChange, KeyRing, NewKey
from gateway.limits import OverLimit
from gateway.limits import headers as rate_headers
from gateway.pages import Pages

MOST_FIELDS = 20
# What the form offers, in days; the API takes any time.
EXPIRIES = (7, 30, 90, 365)

Fields = dict[str, list[str]]
Handler = Callable[[Request], Awaitable[Response]]


class Dashboard:
    def __init__(self, guards: Guards, keyring: KeyRing, shown: Pages) -> None:
        self.guards = guards
        self.keyring = keyring
        self.pages = shown

    async def show_register(self, request: Request) -> Response:
        return self.pages.show("register.html", request, email="", error="")

    async def register(self, request: Request) -> Response:
        fields: Fields = {}
        try:
            limits = self.guards.limits
            request.state.standings = await limits.admit(audit.network(), ["register"])
            fields = await self._fields(request)
            await self.guards.accounts.register(
                NewAccount(email=_one(fields, "email"), password=_one(fields, "password"))
            )
        except (ServiceError, ValidationError) as error:
            if isinstance(error, OverLimit):
                request.state.standings = [error.standing]
            return self._again("register.html", request, fields, error)
        return _to("/login?registered=1")

    async def show_login(self, request: Request) -> Response:
        registered = "registered" in request.query_params
        return self.pages.show("login.html", request, email="", error="", registered=registered)

    async def log_in(self, request: Request) -> Response:
        fields: Fields = {}
        try:
            fields = await self._fields(request)
            email, password = _one(fields, "email"), _one(fields, "password")
            if not 0 < len(email) <= 254 or not 0 < len(password) <= 256:
                raise Unauthenticated("the e-mail address or the password is wrong")
            account = await self.guards.accounts.log_in(email, password)
            token = await self.guards.sessions.begin(account, _session(request))
        except ServiceError as error:
            return self._again("login.html", request, fields, error, registered=False)
        response = _to("/dashboard")
        response.headers["Set-Cookie"] = sessions.set_cookie(token)
        return response

    async def log_out(self, request: Request) -> Response:
        await self._fields(request)
        if token := _session(request):
            await self.guards.sessions.end(token)
        response = _to("/")
        response.headers["Set-Cookie"] = sessions.clear_cookie()
        return response

    async def show(self, request: Request) -> Response:
        account = await self._account(request)
        await self._count(request, account)
        return await self._show(request, account)

    async def create_key(self, request: Request) -> Response:
        account, fields = await self._act(request)
        try:
            days = _one(fields, "expires")
            new = NewKey.model_validate(
                {
                    "name": _one(fields, "name").strip(),
                    "scopes": fields.get("scopes", []),
                    "expires_at": _days_from_now(days) if days else None,
                }
            )

            async def work(digest: str) -> Answer:
                now = context.current.get()
                context.current.set(dataclasses.replace(now, idempotency_key=digest))
                made = await self.keyring.create(account, new)
                return Answer(made.model_dump_json().encode())

            # The form's own number: when a reload sends it again, there is still one key.
            number = _one(fields, "number").encode("ascii", "replace")
            what = new.model_dump_json(exclude={"expires_at"}).encode()
            answer = await self.guards.idempotency.once(account, b"form " + number, what, work)
        except (ServiceError, ValidationError) as error:
            return await self._show(request, account, error)
        made = CreatedKey.model_validate_json(answer.content)
        return await self._show(request, account, made=made)

    async def change_key(self, request: Request) -> Response:
        account, fields = await self._act(request)
        try:
            change = KeyChange(name=_one(fields, "name").strip())
            await self.keyring.change(account, _key_in(request), change)
        except (ServiceError, ValidationError) as error:
            return await self._show(request, account, error)
        return _to("/dashboard")

    async def revoke_key(self, request: Request) -> Response:
        account, _ = await self._act(request)
        try:
            await self.keyring.revoke(account, _key_in(request))
        except ServiceError as error:
            return await self._show(request, account, error)
        return _to("/dashboard")

    async def change_beta(self, request: Request) -> Response:
        account, fields = await self._act(request)
        change = AccountChange(beta=_one(fields, "beta") == "on")
        await self.guards.accounts.change(account, change)
        return _to("/dashboard")

    async def _account(self, request: Request) -> str:
        token = _session(request)
        if token is None:
            raise LoggedOut
        try:
            return await self.guards.sessions.find(token)
        except Unauthenticated:
            raise LoggedOut from None

    async def _act(self, request: Request) -> tuple[str, Fields]:
        """Whose form it is and what it says; counted like any request of the account."""
        fields = await self._fields(request)
        account = await self._account(request)
        await self._count(request, account)
        return account, fields

    async def _count(self, request: Request, account: str) -> None:
        request.state.standings = await self.guards.limits.admit(account, ["api"])

    async def serve(self, handler: Handler, request: Request) -> Response:
        """What the handler answers, or a page that says why not; with where the limits stand."""
        request.state.standings = []
        try:
            response = await handler(request)
        except ServiceError as error:
            if isinstance(error, OverLimit):
                request.state.standings = [error.standing]
            message, status, headers = _said(error)
            response = self.pages.show("refused.html", request, status, error=message)
            response.headers.update(headers)
        if request.state.standings:
            response.raw_headers += rate_headers(request.state.standings)
        return response

    async def _fields(self, request: Request) -> Fields:
        """What a form of ours sends.

        Raises:
            PermissionDenied: another site's form.
            InvalidRequest: no form, too large, or not text.
        """
        headers = dict(request.scope["headers"])
        await self.guards.sessions.refuse_cross_site(headers)
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if media_type != b"application/x-www-form-urlencoded":
            raise InvalidRequest("send a form", status=415)
        raw = await bodies.read(request.receive, headers, FEW_BYTES)
        try:
            fields = parse_qs(
                raw.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=MOST_FIELDS,
            )
        except ValueError:
            raise InvalidRequest("this is no form that can be read") from None
        if any("\0" in value for values in fields.values() for value in values):
            raise InvalidRequest("a field holds the character U+0000")
        return fields

    async def _show(
        self,
        request: Request,
        account: str,
        error: ServiceError | ValidationError | None = None,
        made: CreatedKey | None = None,
    ) -> Response:
        message, status, headers = _said(error)
        response = self.pages.show(
            "dashboard.html",
            request,
            status,
            account=await self.guards.accounts.get(account),
            keys=(await self.keyring.list(account)).keys,
            made=made,
            error=message,
            scopes=keys.SCOPES,
            expiries=EXPIRIES,
            now=datetime.now(UTC),
            number=secrets.token_hex(16),
        )
        response.headers.update(headers)
        return response

    def _again(
        self,
        name: str,
        request: Request,
        fields: Fields,
        error: ServiceError | ValidationError,
        **values: Any,
    ) -> Response:
        """The form once more, with what is wrong; a password is never sent back."""
        message, status, headers = _said(error)
        email = _one(fields, "email")[:254]
        response = self.pages.show(name, request, status, email=email, error=message, **values)
        response.headers.update(headers)
        return response


class LoggedOut(Exception):
    """Nobody is logged in here, or not any more."""


def add(app: FastAPI, dashboard: Dashboard) -> None:
    for method, path, handler in (
        ("GET", "/register", dashboard.show_register),
        ("POST", "/register", dashboard.register),
        ("GET", "/login", dashboard.show_login),
        ("POST", "/login", dashboard.log_in),
        ("POST", "/logout", dashboard.log_out),
        ("GET", "/dashboard", dashboard.show),
        ("POST", "/dashboard/keys", dashboard.create_key),
        ("POST", "/dashboard/keys/{key}/rename", dashboard.change_key),
        ("POST", "/dashboard/keys/{key}/revoke", dashboard.revoke_key),
        ("POST", "/dashboard/beta", dashboard.change_beta),
    ):
        served = partial(dashboard.serve, handler)
        app.add_route(path, served, methods=[method], include_in_schema=False)

    async def to_login(_: Request, __: Exception) -> Response:
        return _to("/login")

    app.add_exception_handler(LoggedOut, to_login)


def _one(fields: Fields, name: str) -> str:
    return fields.get(name, [""])[0]


def _key_in(request: Request) -> str:
    key: str = request.path_params["key"]
    bodies.check_parameter("key", key)
    return key


def _days_from_now(days: str) -> datetime:
    if days not in map(str, EXPIRIES):
        raise InvalidRequest("choose an expiry from the list")
    return datetime.now(UTC) + timedelta(days=int(days))


def _said(error: ServiceError | ValidationError | None) -> tuple[str, int, dict[str, str]]:
    """As a sentence, a status, and headers."""
    if error is None:
        return "", 200, {}
    if isinstance(error, ValidationError):
        error = invalid(error)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return error.message[:1].upper() + error.message[1:] + ".", error.status, headers


def _session(request: Request) -> str | None:
    return sessions.token_in(dict(request.scope["headers"]))


def _to(address: str) -> Response:
    # 303: the browser asks for the page; a reload sends no form again.
    return RedirectResponse(address, 303, headers=pages.HEADERS)
