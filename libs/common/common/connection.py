"""nats-py's client, with a short way for what is asked and answered.

nats-py hands a message to a queue, from which a task takes it, and what is
sent to another queue, from which another task writes it: three switches
between tasks for each message, most of what a request costs. Here what
arrives is handed over as it is parsed, and what is sent in one turn of the
loop is written together after it: a write for each would cost more than both.
Connecting, reconnecting, subscriptions and JetStream are nats-py's.

This stands on names of nats-py that are its own (`_process_msg`, `_pongs`, `_pending`,
`_transport`); its version is pinned, and tests/test_connection.py tries them.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

# Bytes that the socket has not taken; beyond it the server hangs, and what is sent is refused.
MOST_UNSENT = 8 * 1024 * 1024
HEAD = b"NATS/1.0"
NEWLINES = str.maketrans("\r\n", "  ")


class Message:
    """One that has arrived. `headers` are read when asked for."""

    __slots__ = ("_raw", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, raw: bytes | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._raw = raw

    @property
    def headers(self) -> dict[str, str]:
        """Empty if there are none; what the server says itself is under `Status`."""
        if not self._raw:
            return {}
        first, *lines = self._raw.decode(errors="replace").split("\r\n")
        status = first[len(HEAD) :].split(maxsplit=1)
        headers = {"Status": status[0]} if status else {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                headers[name] = value.strip()
        return headers


Take = Callable[[Message], None]


class Connection(Client):
    def __init__(self) -> None:
        super().__init__()
        self._takers: dict[int, Take] = {}
        # Sent in this turn of the loop.
        self._unsent: list[bytes] = []
        self._unsent_size = 0
        # Whether its other end was found to hang; over as soon as it says anything.
        self.silent = False

    async def listen(self, subject: str, take: Take, queue: str = "") -> Subscription:
        """Hand every message to `take` as it arrives, in the order of arrival.

        `take` must not raise, and returns at once: nothing else is read meanwhile.
        `drain` of what is returned ends when all that came has been handed over.
        """

        async def late(message: Msg) -> None:
            # What came before the line below.
            headers = message.headers or {}
            raw = encode(headers) if headers else None
            take(Message(message.subject, message.reply, message.data, raw))

        subscription = await self.subscribe(subject, queue=queue, cb=late)
        self._takers[subscription._id] = take  # noqa: SLF001  (see above)
        return subscription

    def send(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Write a message to the socket in a moment; `headers` as `encode` makes them.

        Raises:
            nats.errors.MaxPayloadError: larger than the server takes.
            nats.errors.OutboundBufferLimitError: not connected, or the server takes nothing.
        """
        size = len(headers) + len(payload)
        if size > self._max_payload:
            raise nats.errors.MaxPayloadError
        if not self.is_connected or self._transport is None:
            raise nats.errors.OutboundBufferLimitError
        if self._socket.get_write_buffer_size() + self._unsent_size > MOST_UNSENT:
            raise nats.errors.OutboundBufferLimitError
        if headers:
            head = f"HPUB {subject} {reply} {len(headers)} {size}\r\n".encode()
        else:
            head = f"PUB {subject} {reply} {size}\r\n".encode()
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        whole = b"%b%b%b\r\n" % (head, headers, payload)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._write_soon)
        self._unsent.append(whole)
        self._unsent_size += len(whole)

    @property
    def _socket(self) -> asyncio.WriteTransport:
        transport: Any = self._transport
        socket: asyncio.WriteTransport = transport._io_writer.transport  # noqa: SLF001  (see above)
        return socket

    def _write_soon(self) -> None:
        if self.is_connected and self._transport is not None and not self._socket.is_closing():
            self._write_unsent()
        # Else the connection was lost meanwhile. Who asked has been told so, and may ask again.
        self._unsent, self._unsent_size = [], 0

    def _write_unsent(self) -> None:
        """After what nats-py is about to send: a subscription, say."""
        if self._transport is not None and (whole := [*self._pending, *self._unsent]):
            self._transport.writelines(whole)
            self._pending, self._unsent = [], []
            self._pending_data_size = self._unsent_size = 0

    async def _send_ping(self, future: asyncio.Future[None] | None = None) -> None:
        # nats-py's would overtake what is pending, and its answer would say that it has arrived.
        self._write_unsent()
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        # nats-py's would end its reading for good over the answer to a ping that was given up.
        self.silent = False
        if self._pongs and self._pongs[0].done():
            self._pongs.pop(0)
            self._pings_outstanding = 0
        else:
            await super()._process_pong()

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        self.silent = False
        take = self._takers.get(sid)
        if take is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        elif sid in self._subs:
            self.stats["in_msgs"] += 1
            self.stats["in_bytes"] += len(data)
            take(Message(subject.decode(), reply.decode(), data, headers))

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._takers.pop(sid, None)


def encode(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent; a line break in a value is a blank."""
    lines = "".join(f"{name}: {value.translate(NEWLINES)}\r\n" for name, value in headers.items())
    return b"%b\r\n%b\r\n" % (HEAD, lines.encode())
