"""Answers to callers, and the headers that each of them carries."""

import re
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import ServiceError
from gateway import envelope

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

# No answer is a page, whatever a browser guesses, and none may be shared: keys and models' figures
# do not belong in a shared cache.
SAFE: Headers = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"same-origin"),
]
NOT_KEPT: Headers = [(b"cache-control", b"no-store")]
# Sent if the public address is https: browsers then refuse plain HTTP for two years.
HSTS: Headers = [(b"strict-transport-security", b"max-age=63072000; includeSubDomains")]
# RFC 9110, 12.4.2.
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that is not enveloped JSON, or that sets its own headers."""

    content: bytes
    media_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def preferred(accept: str, offered: set[str]) -> str | None:
    """Return the offered media type that an `Accept` header weights highest, if any."""
    weights = {}
    for kind in accept.lower().split(","):
        name, *parameters = (part.strip() for part in kind.split(";"))
        weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        if name in offered:
            weights[name] = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    best = max(weights, key=weights.__getitem__, default=None)
    return best if best and weights[best] > 0 else None


def failure(
    error: ServiceError, version: str, request_id: str, challenge: str = "Bearer"
) -> Answer:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    elif error.status in (429, 503):
        headers["Retry-After"] = "1"
    if error.status == 401:
        headers["WWW-Authenticate"] = f'{challenge} realm="lilypad"'
    content = envelope.failure(error, version, request_id)
    return Answer(content, status=error.status, headers=headers)


async def send_answer(send: Send, answer: Answer, request_id: str, more: Headers) -> None:
    headers: Headers = [
        (b"content-length", str(len(answer.content)).encode()),
        (b"x-request-id", request_id.encode()),
        *SAFE,
        *more,
    ]
    if answer.content:
        headers.append((b"content-type", answer.media_type.encode()))
    if answer.headers:
        headers += [(name.lower().encode(), text.encode()) for name, text in answer.headers.items()]
    if "Cache-Control" not in answer.headers:
        headers += NOT_KEPT
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.content})
