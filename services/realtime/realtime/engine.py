"""python-socketio's server, with changes to its internals.

docs/decisions/011-patched-engine.md says what each change buys; tests/test_engine.py
fails when a release of python-socketio or python-engineio needs another one, or none.
"""

import asyncio
import functools
import logging
import re
from contextvars import ContextVar
from typing import Any, Protocol, cast
from urllib.parse import parse_qs

import engineio
import socketio
from engineio.async_drivers.asgi import WebSocket as EngineWebSocket
from engineio.exceptions import QueueEmpty
from engineio.payload import Payload

from realtime.origins import Origins
from realtime.update import Update
from realtime.websocket import EXTENSION, MAX_FRAME_BYTES

# After a connection closes, how long its last poll may still fetch the reason.
LAST_POLL_S = 0.05
# Packets in the answer to one poll. With more, python-engineio's clients drop the whole answer and
# the connection, and never get past a longer backlog.
MAX_POLLED_PACKETS = 16
# An id that the edge has checked.
REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{8,64}", re.ASCII)
# Request that opens the connection.
opening: ContextVar[str] = ContextVar("opening", default="")


class Listener(Protocol):
    """The application behind the server; ids are those of Engine.IO connections."""

    async def open(self, id: str, socket: Any) -> None:
        """Note a new connection, before its first packet."""

    async def close(self, id: str) -> None:
        """Note the end of a connection."""

    async def connect(self, id: str, auth: Any) -> None:
        """Admit a client to the namespace, or raise `ConnectionRefusedError`."""

    async def disconnect(self, id: str) -> None:
        """Note that a client left the namespace."""

    async def answer(self, id: str, data: list[Any]) -> dict[str, Any]:
        """Return the acknowledgement of an event; `data` is its name and arguments."""

    def send(self, id: str, update: Update) -> None:
        """Queue an update that must not be dropped or replaced."""


class Engine(socketio.AsyncServer):  # type: ignore[misc]  # python-socketio has no types
    def __init__(self, listener: Listener, origins: Origins) -> None:
        # python-socketio logs every client's mistakes, so clients could flood the log.
        quiet = logging.getLogger("socketio")
        quiet.setLevel(logging.CRITICAL)
        super().__init__(
            async_mode="asgi",
            cors_allowed_origins=origins.allow,
            max_http_buffer_size=MAX_FRAME_BYTES,
            http_compression=False,
            logger=quiet,
            engineio_logger=quiet,
        )
        self.listener = listener
        # engineio drops a request with more packets silently; `Client` counts them and answers.
        Payload.max_decode_packets = MAX_FRAME_BYTES
        # Only this private table can replace the WebSocket class.
        self.eio._async = {**self.eio._async, "websocket": WebSocket}  # noqa: SLF001
        self.on("connect", self._admit)
        self.on("disconnect", self._leave)

    def _engineio_server_class(self) -> type[engineio.AsyncServer]:
        return EngineServer

    async def _handle_eio_connect(self, eio_sid: str, environ: dict[str, Any]) -> None:
        await super()._handle_eio_connect(eio_sid, environ)
        socket = self.eio.sockets[eio_sid]
        socket.poll = functools.partial(poll, socket)
        await self.listener.open(eio_sid, socket)

    async def _handle_eio_disconnect(self, eio_sid: str, reason: str) -> None:
        await super()._handle_eio_disconnect(eio_sid, reason)
        if (socket := self.eio.sockets.get(eio_sid)) is not None:
            # engineio leaves a poll of an ended connection waiting for 45 s.
            loop = asyncio.get_running_loop()
            loop.call_later(LAST_POLL_S, socket.queue.put_nowait, None)
        await self.listener.close(eio_sid)

    async def _admit(self, sid: str, _environ: dict[str, Any], auth: Any) -> None:
        await self.listener.connect(self.manager.eio_sid_from_sid(sid, "/"), auth)

    async def _leave(self, sid: str, _reason: str) -> None:
        await self.listener.disconnect(self.manager.eio_sid_from_sid(sid, "/"))

    async def _handle_event_internal(
        self, server: Any, _sid: str, eio_sid: str, data: list[Any], namespace: str, id: int | None
    ) -> None:
        """Pass an event to the listener; send an error as an event if no acknowledgement is wanted.

        The method it replaces runs a handler that cannot know whether an acknowledgement
        was asked for.
        """
        answer = await self.listener.answer(eio_sid, data)
        if id is not None:
            packet = self.packet_class(
                socketio.packet.ACK, namespace=namespace, id=id, data=[answer]
            )
            await server._send_packet(eio_sid, packet)  # noqa: SLF001  (as the method it replaces)
        elif answer["status"] == "error":
            body = {"code": answer["code"], "message": answer["message"]}
            self.listener.send(eio_sid, Update("error", body))

    def forget_closed(self, query: bytes) -> None:
        """Forget a closed connection that a query names, so that a POST to it gets 400, not 500."""
        sockets = self.eio.sockets
        for id in connection_ids(query):
            if id in sockets and sockets[id].closed:
                del sockets[id]


class EngineServer(engineio.AsyncServer):  # type: ignore[misc]  # engineio has no types
    """engineio's server, with connection ids that begin with the id of the opening request.

    The edge sends all requests of a connection to the same replica, by the hash of that id.
    """

    async def _handle_connect(self, environ: dict[str, Any], *arguments: Any) -> Any:
        opening.set(environ.get("HTTP_X_REQUEST_ID", ""))
        return await super()._handle_connect(environ, *arguments)

    def generate_id(self) -> str:
        id, request = str(super().generate_id()), opening.get()
        return f"{request}.{id}" if REQUEST_ID.fullmatch(request) else id


class WebSocket(EngineWebSocket):  # type: ignore[misc]  # engineio has no types
    """engineio's WebSocket, which adds uvicorn's `Wire` to its socket."""

    async def __call__(self, environ: dict[str, Any]) -> Any:
        extensions = cast("dict[str, Any]", environ["asgi.scope"].get("extensions") or {})
        if EXTENSION in extensions:
            # `handler` is a method of the engineio socket that is served.
            self.handler.__self__.wire = extensions[EXTENSION]["wire"]
        return await super().__call__(environ)


async def poll(socket: Any) -> list[Any]:
    """Wait for packets of an engineio socket; return at most `MAX_POLLED_PACKETS`, oldest first.

    Raises:
        QueueEmpty: there was none for so long that the client must have left.
    """
    queue, server = socket.queue, socket.server
    try:
        packet = await asyncio.wait_for(queue.get(), server.ping_interval + server.ping_timeout)
    except (TimeoutError, asyncio.CancelledError):
        raise QueueEmpty from None
    packets = []
    while packet is not None:
        packets.append(packet)
        queue.task_done()
        if queue.empty() or len(packets) == MAX_POLLED_PACKETS:
            return packets
        packet = queue.get_nowait()
    queue.task_done()
    if packets:
        queue.put_nowait(None)  # the end, for the next poll
    return packets


def connection_ids(query: bytes) -> list[str]:
    """Return the connection ids in a request's query; empty for an opening request."""
    return parse_qs(query.decode("latin-1")).get("sid", [])
