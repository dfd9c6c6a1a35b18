"""nats-py's client with a fast path for requests and replies.

nats-py puts each received message into a queue that a task reads, and each
sent one into a queue that another task writes: three task switches per
message, most of a request's cost. Here a message is handed to its callback as
it is parsed, and the messages sent in one turn of the loop are written
together. Connecting, reconnecting, subscriptions and JetStream are nats-py's.

This relies on private names of nats-py (`_process_msg`, `_process_info`, `_process_err`,
`_connect_to_server`, `_pongs`, `_pending`, `_transport`); its version is pinned, and
tests/test_connection.py covers them.
"""

import asyncio
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

# Bytes not yet accepted by the socket; with more, the server counts as hung and sending fails.
MAX_UNSENT_BYTES = 8 * 1024 * 1024
HEAD = b"NATS/1.0"
# NATS ADR-32: a reply that carries these headers is an error.
ERROR = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"
# Error of a server that refuses a subject and keeps the connection.
PERMISSIONS = "permissions violation"
NEWLINES = str.maketrans("\r\n", "  ")


class ReceivedMessage:
    """A received message; `headers` are parsed on access."""

    __slots__ = ("_raw", "data", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, raw: bytes | None) -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self._raw = raw

    @property
    def headers(self) -> dict[str, str]:
        """The headers; a status from the server itself is under `Status`."""
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


Receive = Callable[[ReceivedMessage], None]


class Connection(Client):
    """A nats-py client with `listen` and `send` in addition to its own methods.

    Args:
        tls: whether a server without TLS is refused.
        ca_file: certificates to trust, read for each connection; None for the system's.
    """

    def __init__(self, *, tls: bool = False, ca_file: Path | None = None) -> None:
        super().__init__()
        self._tls = tls
        self._ca_file = ca_file
        self._receivers: dict[int, Receive] = {}
        # Messages of this turn of the loop, not yet written.
        self._unsent: list[bytes] = []
        self._unsent_size = 0
        # Whether the server was found to hang; reset when it sends anything.
        self.silent = False

    async def listen(self, subject: str, receive: Receive, queue: str = "") -> Subscription:
        """Subscribe to a subject, and call `receive` with each message in order of arrival.

        `receive` must not raise or block: nothing else is read meanwhile.
        Draining the subscription ends when `receive` has had every message.
        """

        async def late(message: Msg) -> None:
            # Messages that arrived before the fast path is installed below.
            headers = message.headers or {}
            raw = encode(headers) if headers else None
            receive(ReceivedMessage(message.subject, message.reply, message.data, raw))

        subscription = await self.subscribe(subject, queue=queue, cb=late)
        self._receivers[subscription._id] = receive  # noqa: SLF001  (see above)
        return subscription

    def send(self, subject: str, payload: bytes, reply: str = "", headers: bytes = b"") -> None:
        """Queue a message for the end of this event-loop turn; `headers` come from `encode`.

        Raises:
            nats.errors.MaxPayloadError: larger than the server allows.
            nats.errors.OutboundBufferLimitError: not connected, or the server reads nothing.
        """
        size = len(headers) + len(payload)
        if size > self._max_payload:
            raise nats.errors.MaxPayloadError
        if not self.is_connected or self._transport is None:
            raise nats.errors.OutboundBufferLimitError
        if self._socket.get_write_buffer_size() + self._unsent_size > MAX_UNSENT_BYTES:
            raise nats.errors.OutboundBufferLimitError
        if headers:
            head = f"HPUB {subject} {reply} {len(headers)} {size}\r\n".encode()
        else:
            head = f"PUB {subject} {reply} {size}\r\n".encode()
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        frame = b"%b%b%b\r\n" % (head, headers, payload)
        if not self._unsent:
            asyncio.get_running_loop().call_soon(self._write_soon)
        self._unsent.append(frame)
        self._unsent_size += len(frame)

    @property
    def _socket(self) -> asyncio.WriteTransport:
        transport: Any = self._transport
        socket: asyncio.WriteTransport = transport._io_writer.transport  # noqa: SLF001  (see above)
        return socket

    def _write_soon(self) -> None:
        if self.is_connected and self._transport is not None and not self._socket.is_closing():
            self._write_unsent()
        # Otherwise the connection was lost, which has failed the callers already.
        self._unsent, self._unsent_size = [], 0

    def _write_unsent(self) -> None:
        """Write nats-py's pending commands, such as subscriptions, then the queued messages."""
        if self._transport is not None and (unsent := [*self._pending, *self._unsent]):
            self._transport.writelines(unsent)
            self._pending, self._unsent = [], []
            self._pending_data_size = self._unsent_size = 0

    @property
    def ssl_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self._ca_file)

    async def _connect_to_server(self, s: Any) -> None:
        # nats-py leaves the socket of a failed attempt open.
        if self._transport:
            self._transport.close()
        await super()._connect_to_server(s)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # Before the password is sent; nats-py follows a server that asks for no TLS.
        if initial_connection and self._tls and not info.get("tls_required"):
            raise nats.errors.Error("the server offers no TLS")
        await super()._process_info(info, initial_connection=initial_connection)

    async def _process_err(self, err_msg: str) -> None:
        # nats-py closes for good when the server ends a connection, because the user's password was
        # changed for example.
        if PERMISSIONS in err_msg.lower():
            await super()._process_err(err_msg)
        else:
            error = nats.errors.Error(f"nats: {err_msg}")
            await self._error_cb(error)
            await self._process_op_err(error)

    async def _send_ping(self, future: asyncio.Future[None] | None = None) -> None:
        # nats-py's ping would overtake what is pending, whose arrival the pong confirms.
        self._write_unsent()
        await super()._send_ping(future)

    async def _process_pong(self) -> None:
        # nats-py's version stops reading permanently at the pong of a ping that has timed out.
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
        receive = self._receivers.get(sid)
        if receive is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        elif sid in self._subs:
            self.stats["in_msgs"] += 1
            self.stats["in_bytes"] += len(data)
            receive(ReceivedMessage(subject.decode(), reply.decode(), data, headers))

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._receivers.pop(sid, None)


def encode(headers: Mapping[str, str]) -> bytes:
    """Encode headers for the wire; a line break in a value becomes a space."""
    lines = "".join(f"{name}: {value.translate(NEWLINES)}\r\n" for name, value in headers.items())
    return b"%b\r\n%b\r\n" % (HEAD, lines.encode())
