"""One connection: what it may cost, and how updates leave for it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any
from weakref import WeakValueDictionary

import structlog
from engineio.packet import MESSAGE, Packet

from common.errors import InvalidRequest, RateLimited, ServiceError, Unavailable
from realtime import update as updates
from realtime.mailbox import CAPACITY, Mailbox
from realtime.slots import Slot
from realtime.update import Update
from realtime.websocket import LINGER, Wire

log = structlog.get_logger()

# A client hears at most this often: as often as a screen shows something new, in seconds.
PERIOD = 1 / 60
# A client that takes nothing for so long is disconnected, in seconds.
PATIENCE = 10.0
# Packets that a client may send: so many at once, and so many a second.
BURST, RATE = 200, 20.0
# Requests of one client that are worked on at a time.
AT_ONCE = 8
# engineio's own queue (acknowledgements, pings) of a client that does not read them.
MOST_QUEUED = 256

FLOOD = RateLimited(f"more than {RATE:g} messages a second; send less", limit=int(RATE))
BINARY = InvalidRequest("binary messages mean nothing here")
NOT_READING = Unavailable(f"nothing was read for {PATIENCE:g} s; connect again", retry_after=1)
OVERFLOW = Unavailable("more is waiting than a client may have waiting; connect again")


class Client:
    """Made when an Engine.IO connection is, and known by its id.

    Attributes:
        socket: engineio's; has a `wire` once it is a WebSocket.
        account, key, token: who it is, once admitted; a page's session for a key.
        gone: nothing is delivered any more.
        busy: free for requests of this client.
        waiting_since: when the mailbox was last empty or taken from, monotonic.
    """

    def __init__(self, id: str, socket: Any, pump: "Pump") -> None:
        self.id = id
        self.socket = socket
        self.pump = pump
        self.account = ""
        self.key = ""
        self.token = ""
        self.slot: Slot | None = None
        self.models: set[str] = set()
        self.gone = False
        self.busy = asyncio.Semaphore(AT_ONCE)
        self.mailbox = Mailbox()
        self.waiting_since = 0.0
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._next = 0.0
        self._allowance = float(BURST)
        self._counted = time.monotonic()
        self._receive: Callable[[Packet], Awaitable[None]] = socket.receive
        socket.receive = self.receive

    def turn(self, model: str) -> asyncio.Lock:
        """What it asks about one model is done in the order in which it came."""
        return self._turns.setdefault(model, asyncio.Lock())

    def waits_for(self, topic: str) -> bool:
        """Whether there are updates of a topic that it has not got yet."""
        return topic in self.mailbox.latest

    @property
    def wire(self) -> Wire | None:
        return getattr(self.socket, "wire", None)

    async def receive(self, packet: Packet) -> None:
        """In place of engineio's: nothing is worked on that is too much, or of the wrong kind."""
        if self.gone:
            return
        now = time.monotonic()
        self._allowance = min(self._allowance + (now - self._counted) * RATE, BURST) - 1
        self._counted = now
        if self._allowance < 0 or self.socket.queue.qsize() > MOST_QUEUED:
            self.dismiss(FLOOD)
        elif packet.binary or (packet.packet_type == MESSAGE and str(packet.data)[:1] in "56"):
            # Attachments would be gathered in memory until all of them are there.
            self.dismiss(BINARY)
        else:
            await self._receive(packet)

    def deliver(self, update: Update, now: float) -> None:
        """Now, if it hears nothing else in this period; else when its turn comes."""
        if self.gone:
            return
        if not self.mailbox.size and now >= self._next:
            wire = self.wire
            if wire is not None and self._is_free(wire):
                self._next = now + PERIOD
                wire.transport.write(update.frame)
                return
        self._wait(self.mailbox.put(update), now)

    def keep(self, update: Update, after: str | None = "") -> None:
        """Deliver for certain, or disconnect the client: never drop.

        Overtakes updates that wait, but for those of the topic `after` (None: of all topics).
        """
        if not self.gone:
            self._wait(self.mailbox.keep(update, after), time.monotonic())
            self.flush(time.monotonic())

    def _wait(self, fits: bool, now: float) -> None:
        if not fits:
            self.dismiss(OVERFLOW, back=True)
            return
        if not self.waiting_since:
            self.waiting_since = now
        self.pump.add(self)

    def _is_free(self, wire: Wire | None) -> bool:
        """What engineio has queued goes first; during the upgrade nothing goes."""
        socket = self.socket
        if socket.closed or socket.upgrading or not socket.queue.empty():
            return False
        return wire.ready if socket.upgraded and wire is not None else not socket.upgraded

    async def has_room(self) -> None:
        """Wait until at most half the mailbox is full, or the client is gone."""
        while self.mailbox.size > CAPACITY // 2 and not self.gone:  # noqa: ASYNC110  (the pump's pace)
            await asyncio.sleep(PERIOD)

    async def has_kept(self) -> None:
        """Wait until everything that must arrive has been handed over, or the client is gone."""
        while self.mailbox.kept and not self.gone:  # noqa: ASYNC110  (the pump's pace)
            await asyncio.sleep(PERIOD)

    def flush(self, now: float) -> bool:
        """Hand over what waits, if the client takes it; True when nothing waits any more."""
        if not self.mailbox:
            self.waiting_since = 0.0
            return True
        if now >= self._next and self._is_free(wire := self.wire):
            taken = self.mailbox.take()
            if self.socket.upgraded and wire is not None:
                wire.transport.write(b"".join([update.frame for update in taken]))
            else:
                for update in taken:
                    self.socket.queue.put_nowait(Packet(MESSAGE, update.text[1:].decode()))
            self._next = now + PERIOD
            self.waiting_since = now
        elif now - self.waiting_since > PATIENCE:
            self.dismiss(NOT_READING, back=True)
        return False

    def dismiss(self, reason: ServiceError, *, back: bool = False) -> None:
        """Tell why, then close.

        Args:
            reason: sent as an `error` event.
            back: whether the client should connect again by itself. Socket.IO's
                clients do when the transport closes, and do not when the server
                says that it disconnects them.
        """
        if self.gone:
            return
        self.gone = True
        log.info("client dismissed", reason=reason.message, account=self.account)
        self.mailbox.clear()
        wire = self.wire
        told = updates.error(reason)
        goodbye = b"" if back else b"\x81\x0241"
        if wire is not None and self.socket.upgraded:
            if wire.is_open:
                wire.transport.write(told.frame + goodbye)
            wire.leave(1013 if back else 1008, reason.message)
        else:
            self.socket.queue.put_nowait(Packet(MESSAGE, told.text[1:].decode()))
            if not back:
                self.socket.queue.put_nowait(Packet(MESSAGE, "1"))
            self.pump.do(self._end_polling())

    async def _end_polling(self) -> None:
        with contextlib.suppress(Exception):  # whatever engineio says: it is over
            await self.socket.close(wait=False)
        await asyncio.sleep(LINGER)
        if (wire := self.wire) is not None:  # it was just being upgraded
            wire.transport.abort()


class Pump:
    """Goes round the clients for whom something waits, once in a `PERIOD`."""

    def __init__(self) -> None:
        self._waiting: dict[Client, None] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()

    def add(self, client: Client) -> None:
        self._waiting[client] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._round)

    def _round(self) -> None:
        self._timer = None
        now = time.monotonic()
        for client in list(self._waiting):
            if client.gone or client.flush(now):
                del self._waiting[client]
        if self._waiting:
            self._timer = asyncio.get_running_loop().call_later(PERIOD, self._round)

    def do(self, work: Any) -> None:
        """Run something that nobody waits for; a failure is logged by asyncio's handler."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
