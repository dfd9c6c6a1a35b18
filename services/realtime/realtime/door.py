"""The service as one ASGI application: its sockets, and whether it is well."""

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from datetime import UTC, datetime, timedelta
from typing import Any

import nats.errors
import orjson
import socketio
import structlog

from common.bus import NatsBus
from common.errors import ServiceError, Unavailable
from realtime.slots import Slots, alive_subject
from realtime.sockets import Sockets
from realtime.websocket import LARGEST_FRAME, TOO_LARGE

log = structlog.get_logger()

# Between round trips over the bus, in seconds, and how old the last may be.
BEAT, STALE = 0.5, 3.0
# A process whose bus says it is connected but brings nothing is ended: a
# supervisor starts another, and its clients go elsewhere meanwhile.
DEAF = 15.0
# Clocks of publishers may be behind by so much.
MARGIN = timedelta(seconds=2)

NOWHERE = {"code": 3001, "message": "sockets are at /socket.io/"}

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class Pulse:
    """Whether messages really come through: a subscription can go deaf without an error."""

    def __init__(self, bus: NatsBus, slots: Slots, lost: Callable[[datetime], None]) -> None:
        self.bus = bus
        self.slots = slots
        self.lost = lost
        self.heard = -STALE
        self._heard_at = datetime.now(UTC)
        self._connections = 0

    @property
    def is_well(self) -> bool:
        return self.bus.client.is_connected and time.monotonic() - self.heard < STALE

    async def beat(self) -> None:
        """Send a message through the bus to itself, again and again.

        Raises:
            RuntimeError: connected, but deaf.
        """
        while True:
            try:
                subject = alive_subject(self.slots.owner)
                await self.bus.client.request(subject, b"", timeout=2)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("no round trip over the bus", error=repr(error))
                deaf = time.monotonic() - max(self.heard, self.slots.connected_since)
                if self.bus.client.is_connected and deaf > DEAF:
                    raise RuntimeError("the bus is connected but brings nothing") from None
            else:
                self._notice_reconnection()
                self.heard = time.monotonic()
                self._heard_at = datetime.now(UTC)
            await asyncio.sleep(BEAT)

    def _notice_reconnection(self) -> None:
        connections = self.bus.client.stats["reconnects"]
        if connections != self._connections:
            self._connections = connections
            self.slots.connected_since = time.monotonic()
            self.lost(self._heard_at - MARGIN)


class Door:
    def __init__(self, sockets: Sockets, pulse: Pulse) -> None:
        self.sockets = sockets
        self.pulse = pulse
        self.leaving = False
        self.engine = socketio.ASGIApp(sockets.server)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] not in ("http", "websocket"):
            return
        if path.startswith("/socket.io"):
            await self._pass_on(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        elif path == "/healthz":
            await self._say(send, 200, {"status": "ok"}, None)
        elif path == "/readyz":
            if self.leaving:
                await self._refuse(scope, send, Unavailable("stopping", retry_after=1))
            elif not self.pulse.is_well:
                await self._refuse(scope, send, Unavailable("waiting for bus", retry_after=1))
            else:
                counts = {
                    "clients": len(self.sockets.clients),
                    "decoded": self.sockets.topics.decoded,
                }
                await self._say(send, 200, {"status": "ready", **counts}, None)
        else:
            await self._say(send, 404, None, NOWHERE)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """To engineio, unless it would only say that something is wrong."""
        if self.sockets.draining and b"sid=" not in scope["query_string"]:
            await self._refuse(scope, send, Unavailable("stopping", retry_after=1))
        elif scope["type"] == "http" and _length(scope) > LARGEST_FRAME:
            # Refused in the answer to its poll; engineio would only say 400, and close.
            self.sockets.refuse(scope["query_string"], TOO_LARGE)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"ok"})
        else:
            if scope.get("method") == "POST":
                self.sockets.forget_ended(scope["query_string"])
            await self.engine(scope, receive, send)

    async def _refuse(self, scope: Scope, send: Send, error: ServiceError) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1013, "reason": error.message})
        else:
            body = {"code": error.code, "message": error.message}
            await self._say(send, error.status, None, body)

    async def _say(self, send: Send, status: int, data: Any, error: Any) -> None:
        now = datetime.now(UTC).isoformat().replace("+00:00", "Z")
        body = {"data": data, "error": error, "meta": {"version": "v1", "timestamp": now}}
        headers = [(b"content-type", b"application/json")]
        if self.leaving:
            headers.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps(body)})


def _length(scope: Scope) -> int:
    """Bytes of the body, as announced; 0 if it is not, and then engineio reads none."""
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0
