"""A client's connection to its service: address, credentials, version, retry policy."""

from __future__ import annotations

import os
from base64 import b64encode
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

from lilypad_client.errors import APIConnectionError, APIStatusError, LilypadError
from lilypad_client.operation import Operation, Request, Version, build
from lilypad_client.retrying import Policy, Reply, attempts, read_json

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import IO

    from lilypad_client.resource import Flow

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
# Statuses of an operation that answers without content.
EMPTY = frozenset({202, 204})
# The headers `X-RateLimit-...` that say how close the limit is.
STANDING = ("limit", "remaining", "reset")


class RateLimit(NamedTuple):
    """The rate limit nearest to being reached, from the last answer."""

    limit: int
    remaining: int
    reset_s: int


class _Limits:
    """The rate limit from the last answer to any copy of a client."""

    last: RateLimit | None = None


def _has_host(url: str) -> bool:
    with suppress(ValueError):  # a port out of range, or half an IPv6 address
        parts = urlsplit(url)
        return parts.hostname is not None and parts.port != 0
    return False


class Connection:
    """Builder of requests and reader of answers; `Transport` sends the requests."""

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None,
        account: tuple[str, str] | tuple[str, str, str] | None,
        policy: Policy,
    ) -> None:
        self.key = api_key or os.environ.get("LILYPAD_API_KEY")
        if not self.key and not account:
            raise LilypadError("no API key: give api_key, or set LILYPAD_API_KEY")
        if self.key and not (self.key.isascii() and self.key.isprintable() and " " not in self.key):
            raise LilypadError("api_key holds characters that no key has; copy it again")
        url = base_url or os.environ.get("LILYPAD_BASE_URL") or DEFAULT_URL
        if not url.startswith(("http://", "https://")) or not _has_host(url):
            raise LilypadError(f"base_url must be https://HOST or http://HOST, got {url!r}")
        self.base_url = url.rstrip("/")
        self.account = account
        self.policy = policy
        self.version: Version = "v1"
        self.raw = False
        self._limits = _Limits()

    @property
    def last_rate_limit(self) -> RateLimit | None:
        return self._limits.last

    def copy(self, **changes: Any) -> Self:
        """Return a connection that shares pool, rate limit and retry budget, with other options."""
        other = object.__new__(type(self))
        vars(other).update(vars(self) | changes)
        return other

    def request(self, operation: Operation[Any], **parts: Any) -> Request:
        version = self.version if self.version in operation.versions else operation.versions[0]
        headers = {**(parts.pop("headers", None) or {}), **self._authorization(operation)}
        if version == "v2":
            headers["X-Lilypad-Beta"] = "v2"
        request = build(operation, headers=headers, **parts)
        return request._replace(path=f"/{version}/api{request.path}")

    def exchange(self, operation: Operation[T], request: Request) -> Flow[T]:
        reply = yield from self.send(request)
        return self._parse(operation, reply)

    def send(self, request: Request, sink: IO[bytes] | None = None) -> Flow[Reply]:
        try:
            reply = yield from attempts(request, self.policy, sink)
        except APIStatusError as error:
            self._note_limit(error.headers)
            raise
        self._note_limit(reply.headers)
        return reply

    def _authorization(self, operation: Operation[Any]) -> dict[str, str]:
        if operation.credentials == "key":
            if not self.key:
                raise LilypadError(
                    f"{operation.name} needs an API key: give api_key, or set LILYPAD_API_KEY"
                )
            return {"Authorization": f"Bearer {self.key}"}
        if operation.credentials == "account":
            if not self.account:
                raise LilypadError(
                    f"{operation.name} needs the account's password: give account=(email, password)"
                )
            email, password, *code = self.account
            basic = b64encode(f"{email}:{password}".encode()).decode()
            return {
                "Authorization": f"Basic {basic}",
                **({"X-Lilypad-Code": code[0]} if code else {}),
            }
        return {}

    def _parse(self, operation: Operation[T], reply: Reply) -> T:
        if operation.reply is None:
            if reply.status not in EMPTY:  # a proxy's redirect, for example
                raise self._not_our_service()
            return None  # type: ignore[return-value]  # T is None
        from pydantic import ValidationError  # noqa: PLC0415  (slow to import)

        from lilypad_client import types  # noqa: PLC0415

        try:
            data = read_json(reply.content)["data"]
            result: T = getattr(types, operation.reply).model_validate(data)
        except (ValidationError, ValueError, LookupError, TypeError):
            raise self._not_our_service() from None
        return result

    def _not_our_service(self) -> APIConnectionError:
        return APIConnectionError(
            f"{self.base_url} does not answer as a Lilypad Model Generator; is base_url right?"
        )

    def _note_limit(self, headers: Mapping[str, str]) -> None:
        with suppress(LookupError, ValueError):  # no such headers, or ones that a proxy has changed
            limit, remaining, reset_s = (int(headers[f"x-ratelimit-{name}"]) for name in STANDING)
            self._limits.last = RateLimit(limit, remaining, reset_s)
