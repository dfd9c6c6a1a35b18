"""Page that creates, renames and revokes an account's API keys."""

import secrets
from datetime import UTC, datetime, timedelta

from fastapi.responses import Response
from pydantic import ValidationError

from common.errors import InvalidRequest, ServiceError
from gateway import keys
from gateway.keyring import CreatedKey, KeyChange, NewKey
from gateway.pages.page import Page
from gateway.pages.visit import Visit, to
from gateway.pages.visits import Visits

# Lifetimes that the form offers; the API takes any time.
EXPIRIES_DAYS = (7, 30, 90, 365)
PAGE = "/dashboard/keys"


class KeyPages:
    def __init__(self, visits: Visits) -> None:
        self.visits = visits
        self.call = visits.operations.call

    @Page("GET", PAGE)
    async def show(self, visit: Visit) -> Response:
        return await self._show(visit)

    @Page("POST", PAGE)
    async def create(self, visit: Visit) -> Response:
        try:
            days = visit.field("expires")
            new = NewKey.model_validate(
                {
                    "name": visit.field("name").strip(),
                    "scopes": visit.fields.get("scopes", []),
                    "expires_at": _days_from_now(days) if days else None,
                }
            )
            # The form's own number: a reload that sends it again makes no second key.
            number = visit.field("number")
            created = await self.visits.operations.once(
                visit, number, "create_key", new, ignore={"expires_at"}
            )
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error)
        return await self._show(visit, created=created)

    @Page("POST", PAGE + "/{key}/rename")
    async def rename(self, visit: Visit) -> Response:
        try:
            change = KeyChange(name=visit.field("name").strip())
            await self.call(visit, "change_key", change, key_id=visit.id("key"))
        except (ServiceError, ValidationError) as error:
            return await self._show(visit, error, renamed=visit.id("key"))
        return to(PAGE)

    @Page("POST", PAGE + "/{key}/revoke")
    async def revoke(self, visit: Visit) -> Response:
        try:
            await self.call(visit, "revoke_key", key_id=visit.id("key"))
        except ServiceError as error:
            return await self._show(visit, error)
        return to(PAGE)

    async def _show(
        self,
        visit: Visit,
        error: ServiceError | ValidationError | None = None,
        created: CreatedKey | None = None,
        renamed: str = "",
    ) -> Response:
        """Show the keys; `renamed` is the key whose new name was refused with `error`."""
        typed = {"name": "", "scopes": keys.SCOPES, "expires": ""}
        if error and not renamed:
            typed = {
                "name": visit.field("name")[:256],
                "scopes": visit.fields.get("scopes", []),
                "expires": visit.field("expires"),
            }
        return self.visits.show(
            "keys.html",
            visit.request,
            error,
            keys=(await self.call(visit, "list_keys")).keys,
            created=created,
            renamed=renamed,
            typed=typed,
            scopes=keys.SCOPES,
            expiries=EXPIRIES_DAYS,
            now=datetime.now(UTC),
            number=secrets.token_hex(16),
        )


def _days_from_now(days: str) -> datetime:
    if days not in map(str, EXPIRIES_DAYS):
        fault = {"path": "expires", "message": "choose one of the list"}
        raise InvalidRequest("expires: choose one of the list", fields=[fault])
    return datetime.now(UTC) + timedelta(days=int(days))
