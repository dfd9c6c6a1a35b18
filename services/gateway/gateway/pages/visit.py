"""A logged-in person's request for a page, with the submitted form."""

from dataclasses import dataclass, field
from urllib.parse import parse_qs

from fastapi import Request
from fastapi.responses import RedirectResponse, Response

from common.errors import InvalidRequest
from gateway import bodies, sessions
from gateway.endpoint import MAX_SMALL_BODY_BYTES
from gateway.limits import Standing
from gateway.pages import site
from gateway.sessions import Sessions

MAX_FIELDS = 60

Fields = dict[str, list[str]]


@dataclass
class Visit:
    """A person's request for a page: `session` is the cookie's token, `fields` are the form's."""

    request: Request
    account: str
    session: str
    fields: Fields = field(default_factory=dict)
    standings: list[Standing] = field(default_factory=list)

    def field(self, name: str) -> str:
        return first_value(self.fields, name)

    def id(self, name: str) -> str:
        """Return a path parameter; raise InvalidRequest for text that cannot be an id."""
        value: str = self.request.path_params[name]
        bodies.check_parameter(name, value)
        return value


async def read_form(request: Request, guard: Sessions) -> Fields:
    """Read the fields of a form that one of our own pages sent.

    Raises:
        PermissionDenied: another site's form.
        InvalidRequest: not a form, too large, or not text.
    """
    headers = dict(request.scope["headers"])
    await guard.refuse_cross_site(headers)
    media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media_type != b"application/x-www-form-urlencoded":
        raise InvalidRequest("send a form", status=415)
    raw = await bodies.read(request.receive, headers, MAX_SMALL_BODY_BYTES)
    try:
        fields = parse_qs(
            raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError:
        raise InvalidRequest("the form cannot be read; load the page again") from None
    if any("\0" in value for values in fields.values() for value in values):
        raise InvalidRequest("a field holds the character U+0000")
    return fields


def first_value(fields: Fields, name: str) -> str:
    return fields.get(name, [""])[0]


def session_of(request: Request) -> str | None:
    return sessions.token_in(dict(request.scope["headers"]))


def to(address: str) -> Response:
    # 303: the browser asks for the page; a reload sends no form again.
    return RedirectResponse(address, 303, headers=site.HEADERS)
