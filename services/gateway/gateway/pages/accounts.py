"""Pages for registration, login, password reset and the account."""

from typing import Any

import segno
from fastapi import Request
from fastapi.responses import Response
from markupsafe import Markup
from pydantic import ValidationError

from common.errors import ServiceError, Unauthenticated
from gateway import audit, sessions
from gateway.account_fields import AccountChange, AccountDeletion, NewAccount, PasswordChange
from gateway.accounts import Login
from gateway.hub_tokens import NewHubToken
from gateway.limits import OverLimit
from gateway.pages.page import Page
from gateway.pages.visit import Fields, Visit, first_value, read_form, session_of, to
from gateway.pages.visits import Visits, next_page
from gateway.recovery import Reset, ResetRequest
from gateway.second_factor import CodeNeeded, TotpCode, TotpEnd, TotpStart


class AccountPages:
    def __init__(self, visits: Visits) -> None:
        self.visits = visits
        self.guards = visits.guards
        self.call = visits.operations.call

    @Page("GET", "/register", public=True)
    async def show_register(self, request: Request) -> Response:
        return self.visits.show("register.html", request, email="")

    @Page("POST", "/register", public=True)
    async def register(self, request: Request) -> Response:
        fields: Fields = {}
        try:
            limits = self.guards.limits
            request.state.standings = await limits.admit(audit.network(), ["register"])
            fields = await read_form(request, self.guards.sessions)
            new = NewAccount(
                email=first_value(fields, "email"), password=first_value(fields, "password")
            )
            await self.guards.accounts.register(new)
            login = await self.guards.accounts.log_in(new.email, new.password)
            token = await self.guards.sessions.begin(login, session_of(request))
        except Unauthenticated:
            # The address had an account before, with another password.
            return to("/login?registered=1")
        except (ServiceError, ValidationError) as error:
            if isinstance(error, OverLimit):
                request.state.standings = [error.standing]
            return self._show_again("register.html", request, fields, error)
        response = to("/dashboard")
        response.headers["Set-Cookie"] = sessions.set_cookie(token)
        return response

    @Page("GET", "/login", public=True)
    async def show_login(self, request: Request) -> Response:
        query = request.query_params
        registered = "registered" in query
        return self.visits.show(
            "login.html",
            request,
            email="",
            registered=registered,
            next=query.get("next", ""),
            challenge="",
        )

    @Page("POST", "/login", public=True)
    async def log_in(self, request: Request) -> Response:
        fields: Fields = {}
        try:
            fields = await read_form(request, self.guards.sessions)
            login = await self._check_step(fields)
            token = await self.guards.sessions.begin(login, session_of(request))
        except ServiceError as error:
            shown: dict[str, Any] = {"registered": False, "next": first_value(fields, "next")}
            if isinstance(error, CodeNeeded):
                return self.visits.show("login.html", request, challenge=error.challenge, **shown)
            is_code = error.details.get("reason") == "totp" or isinstance(error, OverLimit)
            shown["challenge"] = first_value(fields, "challenge") if is_code else ""
            return self._show_again("login.html", request, fields, error, **shown)
        response = to(next_page(first_value(fields, "next")))
        response.headers["Set-Cookie"] = sessions.set_cookie(token)
        return response

    async def _check_step(self, fields: Fields) -> Login:
        """Check the password of a login, or, in the second step, its code."""
        accounts = self.guards.accounts
        if challenge := first_value(fields, "challenge"):
            return await accounts.log_in_with_code(
                challenge, first_value(fields, "code")[:40] or "-"
            )
        email, password = first_value(fields, "email"), first_value(fields, "password")
        if not 0 < len(email) <= 254 or not 0 < len(password) <= 256:
            raise Unauthenticated("the e-mail address or the password is wrong")
        return await accounts.log_in(email, password)

    @Page("POST", "/logout", public=True)
    async def log_out(self, request: Request) -> Response:
        await read_form(request, self.guards.sessions)
        if token := session_of(request):
            await self.guards.sessions.end(token)
        response = to("/")
        response.headers["Set-Cookie"] = sessions.clear_cookie()
        return response

    @Page("GET", "/forgot", public=True)
    async def show_forgot(self, request: Request) -> Response:
        return self.visits.show("forgot.html", request, email="", sent=False)

    @Page("POST", "/forgot", public=True)
    async def request_reset(self, request: Request) -> Response:
        fields: Fields = {}
        try:
            limits = self.guards.limits
            request.state.standings = await limits.admit(audit.network(), ["reset"])
            fields = await read_form(request, self.guards.sessions)
            await self.guards.recovery.request(
                ResetRequest(email=first_value(fields, "email")).email
            )
        except (ServiceError, ValidationError) as error:
            return self._show_again("forgot.html", request, fields, error, sent=False)
        return self.visits.show("forgot.html", request, email="", sent=True)

    @Page("GET", "/reset", public=True)
    async def show_reset(self, request: Request) -> Response:
        token = request.query_params.get("token", "")
        return self.visits.show("reset.html", request, token=token)

    @Page("POST", "/reset", public=True)
    async def reset(self, request: Request) -> Response:
        fields: Fields = {}
        try:
            limits = self.guards.limits
            request.state.standings = await limits.admit(audit.network(), ["reset"])
            fields = await read_form(request, self.guards.sessions)
            await self.guards.recovery.reset(
                Reset(token=first_value(fields, "token"), new=first_value(fields, "new"))
            )
        except (ServiceError, ValidationError) as error:
            token = first_value(fields, "token")[:100]
            return self.visits.show("reset.html", request, error, token=token)
        return to("/login")

    @Page("POST", "/dashboard/account/delete")
    async def delete_account(self, visit: Visit) -> Response:
        try:
            await self.call(
                visit,
                "delete_account",
                AccountDeletion(password=visit.field("password"), code=visit.field("code") or None),
            )
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error, form="delete")
        response = to("/")
        response.headers["Set-Cookie"] = sessions.clear_cookie()
        return response

    @Page("GET", "/dashboard/account")
    async def show(self, visit: Visit) -> Response:
        return await self._show(visit)

    @Page("POST", "/dashboard/account/password")
    async def change_password(self, visit: Visit) -> Response:
        try:
            change = PasswordChange(
                current=visit.field("current"),
                new=visit.field("new"),
                code=visit.field("code") or None,
            )
            await self.call(visit, "change_password", change)
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error, form="password")
        return await self._show(visit, done="The password is changed; all other sessions ended.")

    @Page("POST", "/dashboard/account/totp")
    async def change_totp(self, visit: Visit) -> Response:
        """Set the second factor up, switch it on or off."""
        act, password, code = visit.field("act"), visit.field("password"), visit.field("code")
        shown: dict[str, Any] = {}
        try:
            if act == "start":
                totp = await self.call(visit, "start_totp", TotpStart(password=password))
                shown = {"totp": totp, "picture": draw(totp.uri)}
            elif act == "confirm":
                codes = await self.call(visit, "confirm_totp", TotpCode(code=code))
                shown = {"recovery_codes": codes.recovery_codes, "done": "The second factor is on."}
            elif act == "stop":
                end = TotpEnd(password=password, code=code or None)
                await self.call(visit, "stop_totp", end)
                shown = {"done": "The second factor is off."}
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error, form="totp", confirming=act == "confirm")
        return await self._show(visit, **shown)

    @Page("POST", "/dashboard/account/hub-token")
    async def change_hub_token(self, visit: Visit) -> Response:
        acts = {"store": "store_hub_token", "test": "check_hub_token", "delete": "delete_hub_token"}
        act = visit.field("act")
        if act not in acts:
            return to("/dashboard/account")
        try:
            body = NewHubToken(token=visit.field("token").strip()) if act == "store" else None
            await self.call(visit, acts[act], body)
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error)
        done = {"delete": "The Hub token is deleted."}.get(act, "The Hub accepts the token.")
        return await self._show(visit, done=done)

    @Page("POST", "/dashboard/account/sessions/{session}/end")
    async def end_session(self, visit: Visit) -> Response:
        await self.call(visit, "end_session", session_id=visit.id("session"))
        return to("/dashboard/account")

    @Page("POST", "/dashboard/beta")
    async def change_beta(self, visit: Visit) -> Response:
        change = AccountChange(beta=visit.field("beta") == "on")
        await self.call(visit, "change_account", change)
        return to("/dashboard/account")

    async def _show(
        self,
        visit: Visit,
        error: ServiceError | ValidationError | None = None,
        **values: Any,
    ) -> Response:
        absent: dict[str, Any] = {
            "totp": None,
            "picture": "",
            "recovery_codes": [],
            "confirming": False,
        }
        values = {"done": "", "form": "", **absent, **values}
        return self.visits.show(
            "account.html",
            visit.request,
            error,
            account=await self.call(visit, "get_account"),
            sessions=(await self.call(visit, "list_sessions")).sessions,
            **values,
        )

    def _show_again(
        self,
        name: str,
        request: Request,
        fields: Fields,
        error: ServiceError | ValidationError,
        **values: Any,
    ) -> Response:
        """Return the form again with its errors; a password is never sent back."""
        return self.visits.show(
            name, request, error, email=first_value(fields, "email")[:254], **values
        )


def draw(uri: str) -> Markup:
    """Draw a URI as a QR code, dark on light in every colour scheme."""
    svg = segno.make(uri, error="m").svg_inline(scale=4, dark="#000", light="#fff")
    return Markup(svg)  # noqa: S704  (drawn here; the address is not in it as text)
