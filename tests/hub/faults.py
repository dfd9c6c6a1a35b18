"""Faults that tests inject into the Hub: one function per mode.

ASGI cannot send half a header or too few bytes, so some modes write to uvicorn's transport itself.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any, cast

from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import RequestResponseCycle

CHUNK = 1 << 16


@dataclass
class Fault:
    """A fault: its mode, the requests that it affects, and their number.

    `status`: answer with `status`, and `retry_after` seconds (429 also with RateLimit headers).
    `late`: answer after `seconds`. `slow`: `piece` bytes every `seconds`, from the first header on
    or, with `part="body"`, after them. `hang`: never answer. `drop`: reset the connection.
    `redirect`: to the address `to`, where `{path}` stands for what was asked.
    `nonsense`: one of `NONSENSE` by `kind`, or "types": the true document with wrong types.
    `huge`: `size` bytes of one JSON string, with or without (`length=False`) Content-Length.
    `truncated`: the true answer, cut off half-way through its body.
    """

    mode: str
    path: str = ""  # regular expression searched in path and query; "" matches every request
    method: str | None = None
    times: int | None = None  # remaining requests that the fault affects; None: until it is removed
    status: int = 503
    retry_after: int | None = None
    seconds: float = 1.0
    piece: int = 1
    part: str = "headers"
    to: str = ""
    kind: str = "html"
    size: int = 200_000_000
    length: bool = True

    def __post_init__(self) -> None:
        """Raise ValueError for a mode or a kind that does not exist."""
        if self.mode not in MODES:
            raise ValueError(f"no mode {self.mode!r}; there are {', '.join(MODES)}")
        if self.kind not in {"types", *NONSENSE}:
            raise ValueError(f"no kind {self.kind!r}; there are types, {', '.join(NONSENSE)}")


@dataclass
class Exchange:
    """A request in progress, and its connection."""

    app: ASGIApp
    scope: Scope
    receive: Receive
    send: Send
    transport: asyncio.Transport

    async def true_answer(self) -> tuple[bytes, bytes]:
        """Return the head and body of the Hub's own answer, with `Connection: close`."""
        messages: list[Message] = []

        async def collect(message: Message) -> None:
            messages.append(message)

        await self.app(self.scope, self.receive, collect)
        head = b"HTTP/1.1 %d \r\n" % messages[0]["status"]
        head += b"".join(b"%s: %s\r\n" % header for header in messages[0]["headers"])
        body = b"".join(message.get("body", b"") for message in messages[1:])
        body = b"" if self.scope["method"] == "HEAD" else body
        return head + b"connection: close\r\n\r\n", body

    async def answer(self, response: Response) -> None:
        await response(self.scope, self.receive, self.send)

    async def client_gone(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def close(self) -> None:
        self.transport.close()
        await self.client_gone()  # otherwise uvicorn would send a 500 for the missing answer


def transport_of(send: Send) -> asyncio.Transport:
    """Return the connection behind uvicorn's `send`, which no middleware may have wrapped."""
    cycle = cast("MethodType", send).__self__
    assert isinstance(cycle, RequestResponseCycle)
    return cycle.transport


async def status(fault: Fault, exchange: Exchange) -> None:
    headers = {}
    if fault.retry_after is not None:
        headers["Retry-After"] = str(fault.retry_after)
    if fault.status == 429:
        headers["RateLimit"] = f'"api";r=0;t={fault.retry_after or 300}'
        headers["RateLimit-Policy"] = '"fixed window";"api";q=500;w=300'
    await exchange.answer(JSONResponse({"error": "Internal Error"}, fault.status, headers))


async def late(fault: Fault, exchange: Exchange) -> None:
    await asyncio.sleep(fault.seconds)
    await exchange.app(exchange.scope, exchange.receive, exchange.send)


async def slow(fault: Fault, exchange: Exchange) -> None:
    head, body = await exchange.true_answer()
    if fault.part == "body":
        exchange.transport.write(head)
        head = b""
    rest = head + body
    for start in range(0, len(rest), fault.piece):
        if exchange.transport.is_closing():
            break
        exchange.transport.write(rest[start : start + fault.piece])
        await asyncio.sleep(fault.seconds)
    await exchange.close()


async def hang(_fault: Fault, exchange: Exchange) -> None:
    await exchange.client_gone()


async def drop(_fault: Fault, exchange: Exchange) -> None:
    # A linger time of zero makes the kernel send a reset instead of an orderly end.
    connection = exchange.transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    exchange.transport.abort()
    await exchange.client_gone()


async def redirect(fault: Fault, exchange: Exchange) -> None:
    path = exchange.scope["raw_path"].decode("ascii")
    if exchange.scope["query_string"]:
        path += "?" + exchange.scope["query_string"].decode("ascii")
    location = fault.to.replace("{path}", path)
    await exchange.answer(Response(None, 307, {"Location": location}))


async def nonsense(fault: Fault, exchange: Exchange) -> None:
    if fault.kind == "no-http":
        exchange.transport.write(NONSENSE[fault.kind])
        await exchange.close()
        return
    if fault.kind == "types":
        _, body = await exchange.true_answer()
        content = json.dumps(wrong_types(json.loads(body))).encode()
    else:
        content = NONSENSE[fault.kind]
    media_type = "text/html" if fault.kind == "html" else "application/json"
    await exchange.answer(Response(content, media_type=media_type))


async def huge(fault: Fault, exchange: Exchange) -> None:
    headers = [(b"content-type", b"application/json")]
    if fault.length:
        headers.append((b"content-length", b"%d" % fault.size))
    await exchange.send({"type": "http.response.start", "status": 200, "headers": headers})
    content = b'{"id": "'
    left = fault.size
    while left and not exchange.transport.is_closing():
        content = content[:left]
        await exchange.send({"type": "http.response.body", "body": content, "more_body": True})
        left -= len(content)
        content = b"x" * CHUNK
    await exchange.send({"type": "http.response.body", "body": b""})


async def truncated(_fault: Fault, exchange: Exchange) -> None:
    head, body = await exchange.true_answer()
    exchange.transport.write(head + body[: len(body) // 2])
    await exchange.close()


def wrong_types(value: Any) -> Any:
    """Return a document with the same names, whose values all have another type."""
    if isinstance(value, dict):
        return {name: wrong_types(inner) for name, inner in value.items()} or "nothing"
    if isinstance(value, list):
        return {"first": wrong_types(value[0])} if value else "nothing"
    return [value] if isinstance(value, str) else str(value)


NONSENSE = {
    "html": b"<!doctype html><title>Sign in</title><form action=/login></form>",
    "json": b'{"id": "lilypad/tiny-',
    "list": b"[]",
    "null": b"null",
    "number": b"42",
    "nan": b'{"id": NaN, "sha": Infinity}',
    "deep": b"[" * 100_000,
    "binary": bytes(range(256)),
    "empty": b"",
    "no-http": b"SSH-2.0-OpenSSH_9.9\r\n",
}
MODES: dict[str, Callable[[Fault, Exchange], Awaitable[None]]] = {
    mode.__name__: mode
    for mode in (status, late, slow, hang, drop, redirect, nonsense, huge, truncated)
}
