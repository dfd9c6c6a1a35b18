"""Raw HTTP/1.1, for requests that no well-behaved client would send."""

import contextlib
import json
import re
import socket
from dataclasses import dataclass
from typing import Any

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}")


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def send(port: int, request: bytes) -> Answer:
    """Send raw bytes; return the answer, whose end its Content-Length states."""
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(60)
        # A caller that is refused before it has sent everything may read why (as httpx and curl
        # do).
        with contextlib.suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(request)
        return read(connection)


def get(port: int, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> Answer:
    lines = [f"{method} {path} HTTP/1.1", "Host: lilypad", *headers]
    if body or method == "POST":
        lines.append(f"Content-Length: {len(body)}")
    return send(port, "\r\n".join([*lines, "", ""]).encode() + body)


def read(connection: socket.socket) -> Answer:
    received = b""
    while b"\r\n\r\n" not in received:
        received += _more(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    start, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    while len(body) < int(headers.get("content-length", 0)):
        body += _more(connection)
    return Answer(int(start.split()[1]), headers, body)


def _more(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    assert received, "the connection ended before the answer did"
    return received


def assert_secured(answer: Answer) -> None:
    """Assert that an answer of the edge has the security headers for browsers."""
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["cache-control"] == "no-store"
    # HSTS is absent over plain HTTP.
    assert "strict-transport-security" not in answer.headers


def assert_envelope(answer: Answer, code: int) -> None:
    """Assert that the answer is exactly the API's error envelope with this code."""
    assert answer.headers["content-type"] == "application/json"
    assert_secured(answer)
    envelope = answer.json()
    assert set(envelope) == {"data", "error", "meta"}
    assert envelope["data"] is None
    error, meta = envelope["error"], envelope["meta"]
    assert set(error) == {"code", "message", "details"}
    assert (error["code"], type(error["code"])) == (code, int)
    assert error["message"][-1:] not in ("", ".")
    assert isinstance(error["details"], dict)
    assert set(meta) == {"version", "timestamp", "requestId"}
    assert meta["version"] == "v1"
    assert TIMESTAMP.fullmatch(meta["timestamp"])
    assert REQUEST_ID.fullmatch(meta["requestId"])
    assert answer.headers["x-request-id"] == meta["requestId"]
    if answer.status in {429, 502, 503, 504}:
        assert answer.headers["retry-after"] == "1"
