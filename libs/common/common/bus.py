"""Typed messages over NATS: ask one service, or tell all who listen."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Protocol

import nats.errors
import orjson
import structlog
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from pydantic_core import to_json

from common.connection import Connection, Message, encode
from common.context import Context, current
from common.contracts import Body, Event, Reply, Request, Rpc
from common.errors import ServiceError, Unavailable

log = structlog.get_logger()

# NATS ADR-32: a reply that carries these headers is an error.
ERROR = "Nats-Service-Error"
ERROR_CODE = "Nats-Service-Error-Code"


class NoResponders(Unavailable):
    """Nobody listens to the subject: the request was not delivered, and may be sent again."""


# While a question waits the server is looked for so often, and is away if it is silent for so long,
# in seconds: who asked is told within a second.
LOOK, SILENCE = 0.2, 0.6
# Whoever was told later than this, in seconds, was kept from it by this process or its machine.
LATE = 0.1

# The reply that is awaited, its time limit, and the subject that was asked.
Waiting = tuple["asyncio.Future[Message]", asyncio.TimerHandle, str]


class Bus(Protocol):
    """What a service needs of the bus; `NatsBus` and `testing.MemoryBus` are the two there are."""

    async def call(self, rpc: Rpc[Request, Reply], request: Request) -> Reply:
        """Ask the service that owns `rpc` and wait for its answer.

        Raises:
            ServiceError: what the service answered, with its code.
            Unavailable: nobody answers, the bus is away, or the time is up.
        """
        ...

    async def pass_on(self, rpc: Rpc[Request, Reply], request: Request) -> bytes:
        """`call`, for who only hands the answer on: its JSON, as the service wrote it."""
        ...

    async def publish(self, event: Event[Body], body: Body, account: str, id: str) -> None:
        """Tell everybody who listens now; an event that must not be missed is a row first."""
        ...


class NatsBus:
    """One connection to NATS.

    Replies come to one inbox subscription and are matched by a token. nats-py
    has the same in `Client.request`; this one also fails what is under way the
    moment the connection is lost, or its other end is silent, where nats-py
    lets each call run into its timeout.
    """

    def __init__(self, client: Connection) -> None:
        self.client = client
        self._waiting: dict[str, Waiting] = {}
        self._inbox = client.new_inbox()
        self._next = 0

    async def start(self) -> None:
        await self.client.listen(f"{self._inbox}.*", self._take_reply)

    @property
    def is_there(self) -> bool:
        """Connected to, and not found to hang."""
        return self.client.is_connected and not self.client.silent

    async def watch(self) -> None:
        """Notice, for ever, a server that hangs: its connection stays open."""
        now = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(LOOK)
            asked = self._waiting or self.client.silent
            if not asked or not self.client.is_connected:
                continue
            start, connection = now(), self.client.stats["reconnects"]
            try:
                async with asyncio.timeout(SILENCE):
                    await self.client.flush()
            except TimeoutError:
                same = self.client.is_connected and self.client.stats["reconnects"] == connection
                if same and now() - start < SILENCE + LATE:
                    self.client.silent = True
                    self.fail_waiting()
            except (nats.errors.Error, OSError, RuntimeError):
                pass  # the connection is lost, which is noticed elsewhere

    def _take_reply(self, message: Message) -> None:
        waiting = self._waiting.pop(message.subject.rpartition(".")[2], None)
        if waiting is None:
            return
        reply, timer, subject = waiting
        timer.cancel()
        if reply.done():
            return
        if not message.data and message.headers.get("Status") == "503":
            away = f"the {_service(subject)} service is away; try again"
            reply.set_exception(NoResponders(away, retry_after=1))
        else:
            reply.set_result(message)

    def _expire(self, number: str, timeout: float) -> None:
        reply, _, subject = self._waiting.pop(number)
        late = f"the {_service(subject)} service did not answer within {timeout:g} s"
        if not reply.done():
            reply.set_exception(Unavailable(late, retry_after=1))

    def fail_waiting(self) -> None:
        """Give up on every call under way: its answer can no longer arrive."""
        waiting, self._waiting = self._waiting, {}
        for reply, timer, _ in waiting.values():
            timer.cancel()
            if not reply.done():
                reply.set_exception(Unavailable("the bus went away", retry_after=1))

    async def call(self, rpc: Rpc[Request, Reply], request: Request) -> Reply:
        answer = await self.pass_on(rpc, request)
        return rpc.reply.model_validate_json(answer, extra="ignore", strict=False)

    async def pass_on(self, rpc: Rpc[Request, Reply], request: Request) -> bytes:
        context = current.get()
        now = time.time()
        deadline = now + rpc.timeout
        if context.deadline is not None:
            deadline = min(deadline, context.deadline)
        payload = to_json(request, by_alias=True)
        message = await self.request(
            rpc.subject, payload, deadline - now, context.to_headers(deadline)
        )
        if ERROR_CODE in message.headers:
            raise ServiceError.from_wire(orjson.loads(message.data))
        return message.data

    async def request(
        self, subject: str, payload: bytes, timeout: float, headers: dict[str, str] | None = None
    ) -> Message:
        """One question and its raw reply; `timeout` in seconds.

        Raises:
            NoResponders: at once, when nobody listens.
            Unavailable: no connection, or no reply in time.
        """
        return await self.ask(subject, payload, timeout, headers)

    def ask(
        self, subject: str, payload: bytes, timeout: float, headers: dict[str, str] | None = None
    ) -> "asyncio.Future[Message]":
        """`request`, under way when this returns; raises Unavailable at once where it can tell."""
        if not self.is_there:
            raise Unavailable("the bus is away", retry_after=1)
        self._next += 1
        number = str(self._next)
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Message] = loop.create_future()
        try:
            self.client.send(
                subject, payload, f"{self._inbox}.{number}", encode(headers) if headers else b""
            )
        except nats.errors.MaxPayloadError:
            raise Unavailable("the message is larger than the bus carries") from None
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the bus is away", retry_after=1) from error
        timer = loop.call_later(timeout, self._expire, number, timeout)
        self._waiting[number] = reply, timer, subject
        return reply

    async def publish(self, event: Event[Body], body: Body, account: str, id: str) -> None:
        subject = f"{event.subject}.{token(account)}.{token(id)}"
        payload, headers = to_json(body, by_alias=True), current.get().to_headers()
        if self.client.is_connected:
            self.client.send(subject, payload, headers=encode(headers) if headers else b"")
        else:
            await self.client.publish(subject, payload, headers=headers)

    async def flush(self) -> None:
        """The server has all that was sent until now: subscriptions count from here."""
        await self.client.flush()

    async def subscribe(
        self,
        event: Event[Body],
        handler: Callable[[Body], Awaitable[None]],
        *,
        filter: str = "*.*",
        queue: str = "",
    ) -> Subscription:
        """Hear an event; `filter` is `<account>.<id>`, `queue` shares it among replicas.

        A message that cannot be read, or a handler that fails, is logged and
        the next one is heard.
        """

        async def receive(message: Msg) -> None:
            reset = current.set(Context.from_headers(message.headers))
            try:
                await handler(event.body.model_validate_json(message.data, extra="ignore"))
            except Exception:
                log.exception("event handler failed", subject=message.subject)
            finally:
                current.reset(reset)

        return await self.client.subscribe(f"{event.subject}.{filter}", queue=queue, cb=receive)


def token(value: str) -> str:
    """A value as one subject token: NATS gives `.`, `*`, `>` and white space a meaning.

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


def _service(subject: str) -> str:
    """Whom a subject belongs to, for a sentence."""
    return subject.split(".")[1] if "." in subject else subject


@asynccontextmanager
async def connect(url: str, name: str) -> AsyncIterator[NatsBus]:
    """Connect, for ever: a lost server is tried again every 0.25 s until it is back.

    The inbox prefix is the service's own, so that the server's permissions
    can keep one service from reading another's replies.
    """
    bus: NatsBus | None = None

    async def lost() -> None:
        if client.is_closed:
            return  # by us
        log.warning("bus lost")
        if bus is not None:
            bus.fail_waiting()

    async def back() -> None:
        client.silent = False
        log.info("bus back")

    async def failed(error: Exception) -> None:
        log.warning("bus error", error=repr(error))

    options: dict[str, Any] = {
        "name": name,
        "inbox_prefix": f"_INBOX.{name}".encode(),
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.25,
        # A server that hangs without closing the connection is given up after 10 s.
        "ping_interval": 5,
        "max_outstanding_pings": 2,
        # What is published while the server is away would be delivered late or never: refuse.
        "pending_size": 8 * 1024 * 1024,
        "disconnected_cb": lost,
        "reconnected_cb": back,
        "error_cb": failed,
    }
    client = Connection()
    await client.connect(url, **options)
    bus = NatsBus(client)
    await bus.start()
    watching = asyncio.create_task(bus.watch())
    try:
        yield bus
    finally:
        watching.cancel()
        try:
            await client.flush(timeout=2)
        except (nats.errors.Error, OSError, TimeoutError):
            log.warning("bus away at the end")
        # It writes what is pending, even to a connection that is lost; uvloop says RuntimeError.
        with suppress(OSError, RuntimeError):
            await client.close()
