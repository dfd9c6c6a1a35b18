"""A socket's events in order, across reconnections."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lilypad_client.errors import APIConnectionError, APIStatusError, LilypadError, status_error

if TYPE_CHECKING:
    from lilypad_client.connection import Connection

# A dependency is unavailable; every other refusal is permanent.
UNAVAILABLE = 5003
HEARD = ("metric_update", "alert", "gap", "benchmark_progress")
CONNECT_TIMEOUT_S = 10.0
FIRST_PAUSE_S, MAX_PAUSE_S = 0.5, 8.0
# Max events queued for a slow reader; beyond that, the socket reconnects from the cursor.
MAX_WAITING = 10_000


@dataclass(frozen=True, slots=True)
class Event:
    """A received event; `send` emits an event whose acknowledgement arrives as another Event."""

    name: str
    data: Any
    send: Callable[[str, dict[str, Any]], Awaitable[None]]


def refusal(failure: Mapping[str, Any]) -> APIStatusError:
    return status_error(0, {"details": {}, **failure}, {}, "", None)


async def events(connection: Connection) -> AsyncGenerator[Event]:
    """Yield a `connect` event for each connection, then the events received on it.

    Raises:
        APIStatusError: the service refused the socket, or closed it.
        APIConnectionError: no first connection within `timeout`.
    """
    deadline: float | None = time.monotonic() + connection.policy.timeout_s
    lost = 0
    while True:
        socket = _Socket(connection)
        try:
            reason = await socket.connect()
            if reason is None:
                deadline, lost = None, 0
                while (event := await socket.inbox.get()) is not None:
                    yield event
            if socket.refused is not None:
                raise socket.refused
        finally:
            await socket.close()
        pause_s = min(FIRST_PAUSE_S * 2.0**lost, MAX_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311
        if deadline is not None and time.monotonic() + pause_s > deadline:
            raise APIConnectionError(f"no connection to {connection.base_url}: {reason}")
        lost += 1
        await asyncio.sleep(pause_s)


class _Socket:
    """One connection; `inbox` receives its events, then None."""

    def __init__(self, connection: Connection) -> None:
        try:
            import aiohttp  # noqa: F401, PLC0415  (part of an extra)
            import socketio  # noqa: PLC0415
        except ImportError:
            raise LilypadError(
                'live updates need more packages: pip install "lilypad-client[realtime]"'
            ) from None
        if not connection.key:
            raise LilypadError("live updates need an API key: give api_key")
        self.inbox: asyncio.Queue[Event | None] = asyncio.Queue()
        self.refused: LilypadError | None = None
        self._connection = connection
        self._failed: Any = socketio.exceptions.SocketIOError
        self._client = client = socketio.AsyncClient(reconnection=False, handle_sigint=False)
        self._last_error: Mapping[str, Any] | None = None
        self._closing: set[asyncio.Task[None]] = set()
        client.on("connect", lambda: self._add("connect", None))
        client.on("connect_error", self._note_refusal)
        client.on("error", self._note_error)
        client.on("disconnect", self._note_end)
        for name in HEARD:
            client.on(name, lambda data, name=name: self._add(name, data))

    async def connect(self) -> str | None:
        """Connect; return the reason for a failure, None on success."""
        try:
            await self._client.connect(
                self._connection.base_url,
                auth={"token": self._connection.key},
                transports=["websocket"],
                wait_timeout=CONNECT_TIMEOUT_S,
            )
        except self._failed as error:
            return str(error)
        return None

    async def close(self) -> None:
        await self._client.disconnect()

    async def send(self, name: str, body: dict[str, Any]) -> None:
        try:
            await self._client.emit(
                name, body, callback=lambda answer: self._add("acknowledged", answer)
            )
        except self._failed:
            self.inbox.put_nowait(None)

    def _add(self, name: str, data: Any) -> None:
        if self._closing:
            return
        if self.inbox.qsize() < MAX_WAITING:
            self.inbox.put_nowait(Event(name, data, self.send))
            return
        self._closing.add(asyncio.ensure_future(self.close()))

    def _note_refusal(self, data: Any = None) -> None:
        failure = data.get("data") if isinstance(data, dict) else None
        if failure and failure["code"] != UNAVAILABLE:
            self.refused = refusal(failure)

    def _note_error(self, failure: Mapping[str, Any]) -> None:
        self._last_error = failure

    def _note_end(self, reason: str) -> None:
        if reason == self._client.reason.SERVER_DISCONNECT:
            self.refused = (
                refusal(self._last_error)
                if self._last_error
                else LilypadError("the service closed the connection")
            )
        self.inbox.put_nowait(None)
