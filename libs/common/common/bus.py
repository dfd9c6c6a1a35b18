"""Typed messages over NATS: call one service, or publish to every listener."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import nats.errors
import orjson
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic_core import to_json

from common import tracing
from common.background import alongside
from common.connection import ERROR_CODE, Connection, ReceivedMessage, encode
from common.context import Context, current
from common.contracts import Body, Event, Reply, Request, Rpc
from common.errors import NoResponders, ServiceError, Unavailable
from common.instruments import MetricFamily, histograms
from common.pending import ConnectionLost, PendingCalls

log = structlog.get_logger()

# While a call waits, the interval between pings of the server, and the silence after which it is
# unavailable: short enough that callers fail within a second.
PING_INTERVAL_S, MAX_SILENCE_S = 0.2, 0.6
# A wake-up later than this means that this process stalled, not the server.
MAX_STALL_S = 0.1
# How long calls wait for a connection that was just lost, and then for the services' connections.
# Servers that restart one after another, or load new passwords, need a fraction of it.
BRIDGE_S = 1.0
BRIDGE_PAUSE_S = 0.05


class Bus(Protocol):
    """The bus as services use it, implemented by `NatsBus` and `testing.MemoryBus`."""

    async def call(self, rpc: Rpc[Request, Reply], request: Request) -> Reply:
        """Call the service that owns `rpc` and return its reply.

        Raises:
            ServiceError: the service replied with an error.
            Unavailable: the service or the bus is unavailable, or the call timed out.
        """
        ...

    async def pass_on(self, rpc: Rpc[Request, Reply], request: Request) -> bytes:
        """Like `call`, but return the reply's raw JSON."""
        ...

    async def publish(self, event: Event[Body], body: Body, account: str, id: str) -> None:
        """Publish to the current subscribers; store an event first if it must not be lost."""
        ...


class NatsBus:
    """A bus over one connection to NATS.

    Replies arrive at one inbox subscription and are matched by a token, as in
    nats-py's `Client.request`. Calls under way also fail as soon as the
    connection is lost or the server is silent, where nats-py lets each of them
    run into its timeout.
    """

    # Servers that hold each stream which this service declares.
    stream_replicas = 1

    def __init__(self, client: Connection) -> None:
        self.client = client
        self.calls = PendingCalls(client)
        self._lost_at = self._back_at = -math.inf
        # Time of the event loop.
        self.connected_at = asyncio.get_running_loop().time()
        self._connected = asyncio.Event()
        self._connected.set()
        # By subject and outcome: ok, refused, failed, unavailable or canceled.
        self._durations = histograms()

    async def start(self) -> None:
        await self.calls.start()

    @property
    def available(self) -> bool:
        """Whether the server is connected and responsive."""
        return self.client.is_connected and not self.client.silent

    async def look(self) -> None:
        """Detect a server or replica that hangs with its connection open."""
        now = asyncio.get_running_loop().time
        self.calls.repeat()
        waiting = self.calls or self.client.silent
        if not waiting or not self.client.is_connected:
            return
        start, connection = now(), self.client.stats["reconnects"]
        try:
            async with asyncio.timeout(MAX_SILENCE_S):
                await self.client.flush()
        except TimeoutError:
            same = self.client.is_connected and self.client.stats["reconnects"] == connection
            if same and now() - start < MAX_SILENCE_S + MAX_STALL_S:
                self.client.silent = True
                self.calls.fail()
        except (nats.errors.Error, OSError, RuntimeError):
            pass  # the connection is lost, which `lost` handles

    def lose(self) -> None:
        """Mark the connection as lost, and fail the pending calls."""
        if self._connected.is_set():
            self._lost_at = asyncio.get_running_loop().time()
            self._connected.clear()
        self.calls.fail()

    def resume(self) -> None:
        """Mark the connection as restored."""
        self._back_at = self.connected_at = asyncio.get_running_loop().time()
        self._connected.set()

    async def call(self, rpc: Rpc[Request, Reply], request: Request) -> Reply:
        answer = await self.pass_on(rpc, request)
        return rpc.reply.model_validate_json(answer, extra="ignore", strict=False)

    async def pass_on(self, rpc: Rpc[Request, Reply], request: Request) -> bytes:
        with tracing.span(rpc.subject, "client"):
            return await self._pass_on(rpc, request)

    async def _pass_on(self, rpc: Rpc[Request, Reply], request: Request) -> bytes:
        context = current.get()
        now = time.time()
        deadline = now + rpc.timeout
        if context.deadline is not None:
            deadline = min(deadline, context.deadline)
        payload = to_json(request, by_alias=True)
        start, outcome = time.perf_counter(), "canceled"
        try:
            headers = context.to_headers(deadline)
            message = await self._deliver(rpc, payload, deadline, headers)
            code = message.headers.get(ERROR_CODE)
            outcome = "ok" if code is None else "refused" if code < "500" else "failed"
        except Unavailable:
            outcome = "unavailable"
            raise
        finally:
            self._durations[rpc.subject, outcome].observe(time.perf_counter() - start)
        if code is not None:
            raise ServiceError.from_wire(orjson.loads(message.data))
        return message.data

    async def _deliver(
        self, rpc: Rpc[Request, Reply], payload: bytes, deadline: float, headers: dict[str, str]
    ) -> ReceivedMessage:
        """Send a request, and return its raw reply.

        After the loss of a connection, it is sent again if it was not sent or may be repeated.
        """
        while True:
            reply, timeout = None, deadline - time.time()
            try:
                reply = self.send_request(
                    rpc.subject, payload, timeout, headers, repeatable=rpc.repeatable
                )
                return await reply
            except NoResponders:
                if not self._is_recent(self._back_at):
                    raise
                await asyncio.sleep(BRIDGE_PAUSE_S)
            except Unavailable as error:
                if reply is None:
                    again = not self.available
                else:
                    again = rpc.repeatable and isinstance(error, ConnectionLost)
                if not again or not await self._bridge():
                    raise

    async def _bridge(self) -> bool:
        """Wait briefly for a connection that was just lost; return whether it was restored."""
        if not self.client.is_connected and self._connected.is_set():
            self.lose()  # nats-py has not reported it yet
        if self.client.silent or not self._is_recent(self._lost_at):
            return False
        with suppress(TimeoutError):
            async with asyncio.timeout_at(self._lost_at + BRIDGE_S):
                await self._connected.wait()
        return self._connected.is_set() and self.available

    @staticmethod
    def _is_recent(moment: float) -> bool:
        return asyncio.get_running_loop().time() < moment + BRIDGE_S

    def families(self) -> Iterator[MetricFamily]:
        """Yield the metrics of this connection."""
        samples = {
            (*subject.split(".")[1:3], outcome): histogram
            for (subject, outcome), histogram in self._durations.items()
        }
        yield MetricFamily(
            "histogram",
            "nats_rpc_duration_seconds",
            "Time from a call of another service to its reply",
            ("svc", "op", "outcome"),
            samples,
        )
        yield MetricFamily(
            "gauge", "nats_available", "1 while the bus answers", (), {(): float(self.available)}
        )

    async def request(
        self, subject: str, payload: bytes, timeout: float, headers: dict[str, str] | None = None
    ) -> ReceivedMessage:
        """Send a request and return its raw reply; `timeout` in seconds.

        Raises:
            NoResponders: at once, when no service listens.
            Unavailable: no connection, or no reply in time.
        """
        return await self.send_request(subject, payload, timeout, headers)

    def send_request(
        self,
        subject: str,
        payload: bytes,
        timeout: float,
        headers: dict[str, str] | None = None,
        *,
        repeatable: bool = False,
    ) -> "asyncio.Future[ReceivedMessage]":
        """Send a request and return the future of its reply.

        Raises:
            Unavailable: no connection, or the request is too large.
        """
        if not self.available:
            raise Unavailable("the bus is unavailable; try again", retry_after=1)
        encoded = encode(headers) if headers else b""
        try:
            return self.calls.send(subject, payload, encoded, timeout, repeatable=repeatable)
        except nats.errors.MaxPayloadError:
            raise Unavailable(
                "the request is too large to be passed on; send less at once"
            ) from None
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the bus is unavailable; try again", retry_after=1) from error

    async def publish(self, event: Event[Body], body: Body, account: str, id: str) -> None:
        subject = f"{event.subject}.{token(account)}.{token(id)}"
        payload, headers = to_json(body, by_alias=True), current.get().to_headers()
        if self.client.is_connected:
            self.client.send(subject, payload, headers=encode(headers) if headers else b"")
        else:
            await self.client.publish(subject, payload, headers=headers)

    async def flush(self) -> None:
        """Wait until the server has received everything sent, including subscriptions."""
        await self.client.flush()

    async def subscribe(
        self,
        event: Event[Body],
        handler: Callable[[Body], Awaitable[None]],
        *,
        filter: str = "*.*",
        queue: str = "",
    ) -> Subscription:
        """Subscribe to an event; `filter` is `<account>.<id>`, `queue` shares it among replicas.

        A message that cannot be parsed, or whose handler fails, is logged and skipped.
        """

        async def receive(message: Msg) -> None:
            reset = current.set(Context.from_headers(message.headers))
            try:
                with tracing.span(event.subject, "consumer"):
                    await handler(event.body.model_validate_json(message.data, extra="ignore"))
            except Exception:
                log.exception("event handler failed", subject=message.subject)
            finally:
                current.reset(reset)

        return await self.client.subscribe(f"{event.subject}.{filter}", queue=queue, cb=receive)


def token(value: str) -> str:
    """Encode a value as one subject token: `.`, `*`, `>` and white space are special in NATS.

    Letters, digits, `-` and `_` stay; every other byte becomes `=XX`, so two
    values never share a token.
    """
    if value and value.isascii() and value.replace("-", "").replace("_", "").isalnum():
        return value
    return (
        "".join(
            chr(byte)
            if chr(byte).isascii() and (chr(byte).isalnum() or byte in b"-_")
            else f"={byte:02X}"
            for byte in value.encode()
        )
        or "="
    )


@asynccontextmanager
async def connect(
    url: str, name: str, password_file: Path | None = None, ca_file: Path | None = None
) -> AsyncIterator[NatsBus]:
    """Connect to NATS; a lost connection is retried every 0.25 s until it is restored.

    With `password_file`, the user is the service, and its password is read for each connection, as
    are the certificates in `ca_file`. With these, or with a tls:// URL, a server without TLS is
    refused.

    The inbox prefix is the service's own, so that the server's permissions
    can keep one service from reading another's replies.
    """
    bus: NatsBus | None = None

    async def lost() -> None:
        if client.is_closed:
            return  # by this process
        log.warning("bus connection lost")
        if bus is not None:
            bus.lose()

    async def back() -> None:
        client.silent = False
        if bus is not None:
            bus.resume()
        log.info("bus reconnected")

    async def failed(error: Exception) -> None:
        log.warning("bus error", error=repr(error))

    options: dict[str, Any] = {
        "name": name,
        "inbox_prefix": f"_INBOX.{name}".encode(),
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.25,
        # The connection to a server that hangs is abandoned after 10 s.
        "ping_interval": 5,
        "max_outstanding_pings": 2,
        # Bytes buffered while disconnected; events that late would be of no use.
        "pending_size": 8 * 1024 * 1024,
        "disconnected_cb": lost,
        "reconnected_cb": back,
        "error_cb": failed,
    }
    if password_file is not None:
        options |= {"user": name, "password": lambda: password_file.read_text("utf-8").strip()}
    client = Connection(tls=ca_file is not None or urlsplit(url).scheme == "tls", ca_file=ca_file)
    await client.connect(url, **options)
    bus = NatsBus(client)
    await bus.start()
    try:
        async with alongside(bus.look, PING_INTERVAL_S):
            yield bus
    finally:
        try:
            await client.flush(timeout=2)
        except (nats.errors.Error, OSError, TimeoutError):
            log.warning("bus unavailable at shutdown")
        # `close` writes what is pending, even to a lost connection; uvloop raises RuntimeError.
        with suppress(OSError, RuntimeError):
            await client.close()
