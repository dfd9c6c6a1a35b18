"""uvicorn's WebSocket, with a way past its message layer for frames that are ready made."""

import asyncio
from typing import Any, cast

from engineio.async_drivers.asgi import WebSocket as EngineWebSocket
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from common.errors import InvalidRequest
from realtime import update

EXTENSION = "lilypad.wire"
LARGEST_FRAME = 64 * 1024
# Seconds that a client has to take leave, before its connection is cut: one
# that did not read may begin to, and find out why.
LINGER = 1.0
LINGER_LONGER = 5.0

TOO_LARGE = InvalidRequest(f"a message is at most {LARGEST_FRAME // 1024} KiB")


class Wire(WebSocketsSansIOProtocol):
    """One connection.

    An update goes to hundreds of clients as the same bytes. Written here it
    costs one call per client; through engineio's queue and writer task and
    uvicorn's `send`, ten times as much.
    """

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # The application's task starts after this.
            extensions = self.scope["extensions"] or {}
            self.scope["extensions"] = {**extensions, EXTENSION: {"wire": self}}

    @property
    def ready(self) -> bool:
        """Whether a frame may be written: open, and the client reads what it gets."""
        return self.writable.is_set() and self.is_open

    @property
    def is_open(self) -> bool:
        return self.handshake_complete and not self.close_sent and not self.transport.is_closing()

    def leave(self, code: int, reason: str) -> None:
        """Close with a reason; what the client does not take in time is thrown away."""
        linger = LINGER if self.writable.is_set() else LINGER_LONGER
        if self.is_open:
            self.conn.send_close(code, reason[:120])
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self.writable.set()  # for whoever waits in `send`: it is over
        asyncio.get_running_loop().call_later(linger, self.transport.abort)

    def handle_parser_exception(self) -> None:
        """A frame that is too large: the client is told before it is disconnected."""
        if self.handshake_complete and self.conn.close_sent and self.conn.close_sent.code == 1009:
            self.transport.write(update.error(TOO_LARGE).frame)
        super().handle_parser_exception()


class WebSocket(EngineWebSocket):  # type: ignore[misc]  # engineio has no types
    """engineio's side: tells its socket which wire it has."""

    async def __call__(self, environ: dict[str, Any]) -> Any:
        extensions = cast("dict[str, Any]", environ["asgi.scope"].get("extensions") or {})
        if EXTENSION in extensions:
            # `handler` is a method of the engineio socket that is being served.
            self.handler.__self__.wire = extensions[EXTENSION]["wire"]
        return await super().__call__(environ)
