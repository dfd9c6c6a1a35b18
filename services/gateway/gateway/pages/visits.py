"""Requests for pages: their session, rate limit and error page."""

import dataclasses
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any
from urllib.parse import quote, urlsplit

import structlog
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import ValidationError

from common import context
from common.contracts import Message
from common.errors import ServiceError, Unauthenticated
from gateway.door import Guards
from gateway.endpoint import handlers_of
from gateway.limits import OverLimit
from gateway.limits import headers as rate_headers
from gateway.pages import site, wording
from gateway.pages.operations import Operations
from gateway.pages.page import add
from gateway.pages.site import Pages
from gateway.pages.visit import Visit, read_form, session_of, to

Handler = Callable[[Request], Awaitable[Response]]
VisitHandler = Callable[[Visit], Awaitable[Response]]
# Pages that a login may lead to: our own.
NEXT = re.compile(r"/dashboard(/[A-Za-z0-9/_.~%?=&+-]*)?")
UNEXPECTED = "something broke on our side; try again, and tell the operator if it stays"

log = structlog.get_logger()


class LoggedOut(Exception):
    """A request without a session, or with one that has ended."""


class Visits:
    """Everything that the pages share: sessions, limits, errors and rendering."""

    def __init__(self, guards: Guards, pages: Pages, operations: Operations) -> None:
        self.guards = guards
        self.pages = pages
        self.operations = operations

    def serve(self, app: FastAPI, *groups: object) -> None:
        """Serve the pages of each group: public ones to anybody, the others after a login."""
        for group in groups:
            for page, handler in handlers_of(group):
                opened = handler if page.public else partial(self._visit, handler)
                add(app, page, partial(self._serve, opened), handler.__qualname__)

    async def _visit(self, handler: VisitHandler, request: Request) -> Response:
        """Call the handler for the logged-in person; a POST must come from a form of our pages."""
        visit = await self._open(request)
        capacity = self.guards.capacity
        capacity.take_for(visit.account)
        try:
            return await handler(visit)
        finally:
            capacity.give_back_for(visit.account)

    async def _open(self, request: Request) -> Visit:
        fields = await read_form(request, self.guards.sessions) if _sends(request) else {}
        session = session_of(request)
        if session is None:
            raise LoggedOut
        try:
            account = await self.guards.sessions.find(session)
        except Unauthenticated:
            raise LoggedOut from None
        now = context.current.get()
        context.current.set(dataclasses.replace(now, account=account))
        standings = request.state.standings
        standings += await self.guards.limits.admit(account, ["api"])
        return Visit(request, account, session, fields, standings)

    async def _serve(self, handler: Handler, request: Request) -> Response:
        """Return the handler's page or an error page, with the rate-limit headers."""
        request.state.standings = []
        try:
            response = await handler(request)
        except LoggedOut:
            return _to_login(request)
        except (ServiceError, ValidationError) as error:
            response = self.refuse(request, error)
        except Exception:
            log.exception("page failed", path=request.url.path)
            response = self.refuse(request, ServiceError(UNEXPECTED))
        if request.state.standings:
            response.raw_headers += rate_headers(request.state.standings)
        return response

    def refuse(self, request: Request, error: ServiceError | ValidationError) -> Response:
        """Return the refusal as a page, or as a fragment if htmx asks."""
        if isinstance(error, OverLimit):
            request.state.standings = [*request.state.standings, error.standing]
        name = "refusal.html" if site.is_fragment(request) else "refused.html"
        return self.show(name, request, error)

    def show(
        self,
        name: str,
        request: Request,
        error: ServiceError | ValidationError | None = None,
        **values: Any,
    ) -> Response:
        """Return a page, with its error as `error` and by field as `faults`."""
        refusal = wording.refusal(error)
        status = refusal.status if refusal else 200
        response = self.pages.show(
            name,
            request,
            status,
            error=wording.sentence(refusal.message) if refusal else "",
            reason=refusal.details.get("reason", "") if refusal else "",
            faults=wording.by_field(refusal),
            **values,
        )
        if refusal is not None and refusal.retry_after is not None:
            response.headers["Retry-After"] = str(refusal.retry_after)
        return response

    async def call_as(
        self, account: str, request: Request, name: str, body: Message | None = None, **path: str
    ) -> Any:
        """Call an operation as the account that made an object public; no login is needed."""
        context.current.set(dataclasses.replace(context.current.get(), account=account))
        return await self.operations.call(Visit(request, account, ""), name, body, **path)

    async def try_to(
        self, visit: Visit, name: str, body: Message | None = None, **path: str
    ) -> tuple[Any, str]:
        """Call an optional operation; return its reply and "", or None and the error."""
        try:
            return await self.operations.call(visit, name, body, **path), ""
        except ServiceError as error:
            return None, wording.sentence(error.message)


def next_page(address: str) -> str:
    """Return the page to open after the login: `address` if it is ours, else the dashboard."""
    return address if NEXT.fullmatch(address) and "//" not in address else "/dashboard"


def _sends(request: Request) -> bool:
    return request.method == "POST"


def _to_login(request: Request) -> Response:
    # A form is not sent again after the login; its page is shown.
    page = urlsplit(request.headers.get("referer", ""))
    if not _sends(request) and not site.is_fragment(request):
        page = urlsplit(request.url.path + ("?" + request.url.query if request.url.query else ""))
    address = page.path + (f"?{page.query}" if page.query else "")
    target = next_page(address)
    login = "/login" if target == "/dashboard" else f"/login?next={quote(target, safe='/')}"
    if site.is_fragment(request):
        return Response(status_code=200, headers={**site.HEADERS, "HX-Redirect": login})
    return to(login)
