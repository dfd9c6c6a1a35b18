"""The ASGI application of the service: sockets and health checks."""

from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any

import orjson
import socketio

from common.errors import ServiceError, Unavailable
from realtime.heartbeat import Heartbeat
from realtime.sockets import Sockets
from realtime.websocket import MAX_FRAME_BYTES, TOO_LARGE

# Max bytes read of a refused body; the edge accepts less.
MAX_DRAINED_BYTES = 1_000_000
NOT_FOUND = {"code": 3001, "message": "not found; connect a Socket.IO client to /socket.io/"}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Application:
    def __init__(self, sockets: Sockets, heartbeat: Heartbeat) -> None:
        self.sockets = sockets
        self.heartbeat = heartbeat
        self.stopping = False
        self.engine = socketio.ASGIApp(sockets.engine)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] not in ("http", "websocket"):
            return
        if path.startswith("/socket.io"):
            await self._serve_socket(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif path == "/healthz":
            await self._respond(send, 200, {"status": "ok"}, None)
        elif path == "/readyz":
            await self._report_readiness(scope, send)
        else:
            await self._respond(send, 404, None, NOT_FOUND)

    async def _report_readiness(self, scope: Scope, send: Send) -> None:
        if self.stopping:
            await self._refuse(scope, send, Unavailable("stopping", retry_after=1))
        elif not self.heartbeat.is_fresh:
            await self._refuse(scope, send, Unavailable("waiting for the bus", retry_after=1))
        else:
            counts = {
                "clients": len(self.sockets.clients),
                "decoded": self.sockets.topics.decoded,
            }
            await self._respond(send, 200, {"status": "ready", **counts}, None)

    async def _serve_socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request to engineio, or refuse it with the reason."""
        if self.sockets.draining and b"sid=" not in scope["query_string"]:
            await self._refuse(scope, send, Unavailable("stopping", retry_after=1))
        elif scope["type"] == "http" and _content_length(scope) > MAX_FRAME_BYTES:
            # The reason comes with the answer to its poll; engineio would only say 400.
            self.sockets.refuse(scope["query_string"], TOO_LARGE)
            await _drain(receive)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
        else:
            if scope.get("method") == "POST":
                self.sockets.engine.forget_closed(scope["query_string"])
            await self.engine(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, error: ServiceError) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013, "reason": error.message})
        else:
            body = {"code": error.code, "message": error.message}
            await self._respond(send, error.status, None, body)

    async def _respond(self, send: Send, status: int, data: Any, error: Any) -> None:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = {"data": data, "error": error, "meta": {"version": "v1", "timestamp": now}}
        headers = [(b"content-type", b"application/json")]
        if self.stopping:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(body)})


def _content_length(scope: Scope) -> int:
    """Return the declared length of the body in bytes; 0 if missing or malformed."""
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def _drain(receive: Receive) -> None:
    """Read a refused body to its end, or the client would not receive the answer."""
    read = 0
    while read < MAX_DRAINED_BYTES:
        message = await receive()
        read += len(message.get("body", b""))
        if not message.get("more_body"):
            return
