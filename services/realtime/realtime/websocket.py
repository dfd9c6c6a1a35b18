"""uvicorn's WebSocket, with direct writing of encoded frames.

It relies on uvicorn's private names (`handle_connect`, `conn`, `writable`, `close_sent`,
`queue`); docs/decisions/011 says why, and tests/test_engine.py checks them.
"""

import asyncio

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.http11 import Request

from common.errors import InvalidRequest
from realtime import update

EXTENSION = "lilypad.wire"
MAX_FRAME_BYTES = 64 * 1024
# How long a closed connection stays open for the client to read the reason: briefly if it
# was reading, longer if it was not and may begin to.
LINGER_S = 1.0
STALLED_LINGER_S = 5.0

TOO_LARGE = InvalidRequest(f"message too large; send at most {MAX_FRAME_BYTES // 1024} KiB")


class Wire(WebSocketsSansIOProtocol):
    """A WebSocket connection.

    Hundreds of clients get an update as the same bytes. Written to the transport, that is
    one call per client instead of engineio's queue, its writer task and uvicorn's `send`.
    """

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == 101:
            # The application's task starts after this.
            extensions = self.scope["extensions"] or {}
            self.scope["extensions"] = {**extensions, EXTENSION: {"wire": self}}

    @property
    def ready(self) -> bool:
        """Whether a frame may be written, since the connection is open and the client reads."""
        return self.writable.is_set() and self.is_open

    @property
    def is_open(self) -> bool:
        return self.handshake_complete and not self.close_sent and not self.transport.is_closing()

    def leave(self, code: int, reason: str) -> None:
        """Close the connection with a reason, and abort it if the client does not read in time."""
        linger_s = LINGER_S if self.writable.is_set() else STALLED_LINGER_S
        if self.is_open:
            self.conn.send_close(code, reason[:120])
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
            self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
            self.writable.set()  # ends a `send` that waits for the client to read
        asyncio.get_running_loop().call_later(linger_s, self.transport.abort)

    def handle_parser_exception(self) -> None:
        """Send the reason before disconnecting a client whose frame is too large."""
        if self.handshake_complete and self.conn.close_sent and self.conn.close_sent.code == 1009:
            self.transport.write(update.error(TOO_LARGE).frame)
        super().handle_parser_exception()
