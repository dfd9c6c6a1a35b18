"""One operation of the API, and a request for it."""

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, Literal, NamedTuple, TypeVar
from urllib.parse import quote

T = TypeVar("T")
Version = Literal["v1", "v2"]


class Operation(NamedTuple, Generic[T]):
    """A row of the generated table; `T` is the type of `data` in the answer.

    Args:
        name: the operation's id in the OpenAPI document.
        method: of HTTP.
        path: below `/<version>/api`, with its parameters in braces.
        reply: the name of `T` in `lilypad_client.types`; None where there is no answer.
        credentials: what the caller needs: an API key, the account's password, or nothing.
        idempotent: whether it takes an `Idempotency-Key`.
        repeatable: whether sending it twice does no more than sending it once.
        versions: of the API, that have it.
    """

    name: str
    method: str
    path: str
    reply: str | None
    credentials: Literal["key", "account"] | None
    idempotent: bool
    repeatable: bool
    versions: tuple[Version, ...]


class Request(NamedTuple):
    """A request whose body and `Idempotency-Key` are fixed before its first attempt.

    `timeout_s` is the deadline of all attempts together; None: the client's own.
    """

    operation: Operation[Any]
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    content: bytes | None
    timeout_s: float | None

    @property
    def repeatable(self) -> bool:
        return self.operation.repeatable or "Idempotency-Key" in self.headers


def build(
    operation: Operation[Any],
    *,
    body: Mapping[str, Any] | None = None,
    query: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] | None = None,
    idempotency_key: str | None = None,
    timeout_s: float | None = None,
    **path: str,
) -> Request:
    """Build the request; `query` fields that are None are omitted.

    Raises:
        ValueError: a number is not finite, or a part of the path is empty.
        TypeError: the body holds something that JSON cannot.
    """
    for name, value in path.items():
        if not value:
            raise ValueError(f"{name} is empty")
    sent = dict(headers or {})
    if operation.idempotent:
        sent["Idempotency-Key"] = idempotency_key or _unique()
    content = None
    if body is not None:
        content = json.dumps(body, allow_nan=False, default=_to_json).encode()
        sent["Content-Type"] = "application/json"
    return Request(
        operation,
        operation.path.format(**{name: quote(value, safe="") for name, value in path.items()}),
        {name: _to_query(value) for name, value in (query or {}).items() if value is not None},
        sent,
        content,
        timeout_s,
    )


def camel(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Rename keyword arguments to the API's names."""
    return {_camel(name): value for name, value in fields.items()}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, (tuple, set, frozenset)):
        return list(value)
    if callable(item := getattr(value, "item", None)):
        return item()  # a number of NumPy or PyTorch
    raise TypeError(f"JSON has no {type(value).__name__}")


def _to_query(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _time(value) if isinstance(value, datetime) else str(value)


def _time(value: datetime) -> str:
    """Format as RFC 3339; a time without a zone is local time."""
    return value.astimezone().isoformat()


def _unique() -> str:
    import uuid  # noqa: PLC0415  (slow to import)

    return str(uuid.uuid4())
