"""A connection of a client, with its cost limits and the delivery of updates."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any
from weakref import WeakValueDictionary

import structlog
from engineio.packet import MESSAGE, Packet

from common.background import Background
from common.errors import InvalidRequest, RateLimited, ServiceError, Unavailable
from realtime import update as updates
from realtime.engine import MAX_POLLED_PACKETS
from realtime.mailbox import CAPACITY_BYTES, Mailbox
from realtime.slots import Slot
from realtime.update import Update
from realtime.websocket import LINGER_S, Wire

log = structlog.get_logger()

# The shortest time between two batches of updates: a screen shows nothing new more often.
PERIOD_S = 1 / 60
# A client that reads nothing for this long is disconnected.
CLIENT_READ_TIMEOUT_S = 10.0
# Packets a client may send at once, and per second.
BURST, RATE_PER_S = 200, 20.0
# Requests of one client that run at a time.
MAX_CONCURRENT_REQUESTS = 8
# Packets (acknowledgements, pings) in engineio's queue of a client that does not read.
MAX_QUEUED_PACKETS = 256

FLOOD = RateLimited(
    f"more than {RATE_PER_S:g} messages a second; send fewer", limit=int(RATE_PER_S)
)
BINARY = InvalidRequest("binary messages are not supported; send JSON")
NOT_READING = Unavailable(
    f"the client read nothing for {CLIENT_READ_TIMEOUT_S:g} s; connect again", retry_after=1
)
OVERFLOW = Unavailable("the client reads too slowly and its mailbox is full; connect again")


class Client:
    """A client's Engine.IO connection.

    Attributes:
        socket: engineio's socket; it has a `wire` once it is a WebSocket.
        account, key, token: the caller's identity, once admitted. A page's session is its key.
        closed: nothing is delivered any more.
        requests: free slots for this client's requests.
        waiting_since_s: when the mailbox was last empty or emptied in part, monotonic.
    """

    def __init__(self, id: str, socket: Any, pump: "Pump") -> None:
        self.id = id
        self.socket = socket
        self.pump = pump
        self.account = ""
        self.key = ""
        self.token = ""
        self.slot: Slot | None = None
        self.gap: datetime | None = None  # from which it was last told to subscribe again
        self.models: set[str] = set()
        self.closed = False
        self.requests = asyncio.Semaphore(MAX_CONCURRENT_REQUESTS)
        self.mailbox = Mailbox()
        self.waiting_since_s = 0.0
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._next_batch_s = 0.0
        self._allowance = float(BURST)
        self._counted_s = time.monotonic()
        self._receive: Callable[[Packet], Awaitable[None]] = socket.receive
        socket.receive = self.receive

    def lock(self, model: str) -> asyncio.Lock:
        """Return the lock that orders requests about one model by their arrival."""
        return self._locks.setdefault(model, asyncio.Lock())

    def has_waiting(self, topic: str) -> bool:
        """Whether updates of a topic wait for delivery."""
        return topic in self.mailbox.latest

    @property
    def wire(self) -> Wire | None:
        return getattr(self.socket, "wire", None)

    async def receive(self, packet: Packet) -> None:
        """Process a packet like engineio, but dismiss the client for floods and binary packets."""
        if self.closed:
            return
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._counted_s) * RATE_PER_S, BURST) - 1
        self._counted_s = now
        if self._allowance < 0 or self.socket.queue.qsize() > MAX_QUEUED_PACKETS:
            self.dismiss(FLOOD)
        elif packet.binary or (packet.packet_type == MESSAGE and str(packet.data)[:1] in "56"):
            # Attachments would be collected in memory until the last one comes.
            self.dismiss(BINARY)
        else:
            await self._receive(packet)

    def deliver(self, update: Update, now_s: float) -> None:
        """Deliver an update at once, or with the next batch if one was sent in this period."""
        if self.closed:
            return
        if not self.mailbox.size_bytes and now_s >= self._next_batch_s:
            wire = self.wire
            if wire is not None and self._can_send(wire):
                self._next_batch_s = now_s + PERIOD_S
                wire.transport.write(update.frame)
                return
        self._wait(self.mailbox.put(update), now_s)

    def deliver_guaranteed(self, update: Update, after: str | None = "") -> None:
        """Deliver an update that must not be dropped; dismiss the client if its mailbox overflows.

        The update overtakes those that wait, except those of the topic `after` (None: of
        every topic).
        """
        if not self.closed:
            self._wait(self.mailbox.put_guaranteed(update, after), time.monotonic())
            self.flush(time.monotonic())

    def _wait(self, fits: bool, now_s: float) -> None:
        if not fits:
            self.dismiss(OVERFLOW, reconnect=True)
            return
        if not self.waiting_since_s:
            self.waiting_since_s = now_s
        self.pump.add(self)

    def _can_send(self, wire: Wire | None) -> bool:
        """Whether a frame may be written now: the queue is empty, and no upgrade is in progress."""
        socket = self.socket
        if socket.closed or socket.upgrading or not socket.queue.empty():
            return False
        return wire.ready if socket.upgraded and wire is not None else not socket.upgraded

    async def has_room(self) -> None:
        """Wait until the mailbox is at most half full, or the client is closed."""
        while self.mailbox.size_bytes > CAPACITY_BYTES // 2 and not self.closed:  # noqa: ASYNC110  (the pump's pace)
            await asyncio.sleep(PERIOD_S)

    async def has_sent_guaranteed(self) -> None:
        """Wait until all guaranteed updates have been sent, or the client is closed."""
        while self.mailbox.guaranteed and not self.closed:  # noqa: ASYNC110  (the pump's pace)
            await asyncio.sleep(PERIOD_S)

    def flush(self, now_s: float) -> bool:
        """Send the next batch if the client reads; return whether the mailbox was empty."""
        if not self.mailbox:
            self.waiting_since_s = 0.0
            return True
        if now_s >= self._next_batch_s and self._can_send(wire := self.wire):
            if self.socket.upgraded and wire is not None:
                batch = self.mailbox.take()
                wire.transport.write(b"".join([update.frame for update in batch]))
            else:
                # One answer's worth, so that a client counts as reading with each answer.
                for update in self.mailbox.take(MAX_POLLED_PACKETS):
                    self.socket.queue.put_nowait(Packet(MESSAGE, update.text[1:].decode()))
            self._next_batch_s = now_s + PERIOD_S
            self.waiting_since_s = now_s
        elif now_s - self.waiting_since_s > CLIENT_READ_TIMEOUT_S:
            self.dismiss(NOT_READING, reconnect=True)
        return False

    def dismiss(self, reason: ServiceError, *, reconnect: bool = False) -> None:
        """Send the reason to the client, and close the connection.

        Args:
            reason: sent as an `error` event.
            reconnect: whether the client should connect again by itself. Socket.IO's
                clients do so when the transport closes, and do not when the server
                disconnects them.
        """
        if self.closed:
            return
        self.closed = True
        log.info("client dismissed", reason=reason.message, account=self.account)
        self.mailbox.clear()
        wire = self.wire
        error = updates.error(reason)
        goodbye = b"" if reconnect else b"\x81\x0241"
        if wire is not None and self.socket.upgraded:
            if wire.is_open:
                wire.transport.write(error.frame + goodbye)
            wire.leave(1013 if reconnect else 1008, reason.message)
        else:
            self.socket.queue.put_nowait(Packet(MESSAGE, error.text[1:].decode()))
            if not reconnect:
                self.socket.queue.put_nowait(Packet(MESSAGE, "1"))
            self.pump.run(self._end_polling())

    async def _end_polling(self) -> None:
        with contextlib.suppress(Exception):  # engineio may say anything: the client is closed
            await self.socket.close(wait=False)
        await asyncio.sleep(LINGER_S)
        if (wire := self.wire) is not None:  # an upgrade was under way
            wire.transport.abort()


class Pump:
    """The periodic flush of clients with a backlog."""

    def __init__(self) -> None:
        self._waiting: dict[Client, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks = Background()

    def add(self, client: Client) -> None:
        self._waiting[client] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._flush_all)

    def _flush_all(self) -> None:
        self._timer = None
        now_s = time.monotonic()
        for client in list(self._waiting):
            if client.closed or client.flush(now_s):
                del self._waiting[client]
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(PERIOD_S, self._flush_all)

    def run(self, work: Any) -> None:
        """Run a coroutine in the background, and log its failure."""
        self._tasks.start(work)
