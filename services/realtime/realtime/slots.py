"""Ten sockets for an account, exactly, however many replicas there are.

Each socket holds one of its account's ten keys in a bucket. A key can be
created once, so no two sockets hold the same. It vanishes 45 s after its
replica last renewed it, so what a crash leaves behind heals by itself; and
before an account is told that it is full, the keys of replicas that no longer
answer on the bus are taken over, so that the clients of a killed replica need
not wait for that.
"""

import asyncio
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import nats.errors
import nats.js.errors
import structlog
from nats.aio.msg import Msg
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue

from common.bus import NatsBus, token
from common.errors import RateLimited, Unavailable

log = structlog.get_logger()

BUCKET = "sockets"
PER_ACCOUNT = 10
# Seconds a key lives, and between renewals: two may fail.
LIFE, RENEWAL = 45.0, 15.0
# How many renewals are under way at a time.
AT_ONCE = 16
# Seconds after the connection to the bus was made during which silence of
# another replica means nothing: it may not be back yet.
SETTLING = 3.0

# What there is when somebody deleted the bucket.
GONE = (nats.js.errors.NotFoundError, nats.js.errors.NoStreamResponseError)


def full() -> RateLimited:
    """A new one each time: one that is raised again and again keeps all that it passed through."""
    return RateLimited(
        f"more than {PER_ACCOUNT} sockets; close one of the others first", limit=PER_ACCOUNT
    )


@dataclass(slots=True, eq=False)
class Slot:
    """`holder`: the key's value; `lock`: it is not given back while it is being renewed."""

    account: str
    key: str
    holder: bytes
    revision: int
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Slots:
    """The slots that this replica's sockets hold.

    Args:
        bus: where the bucket is.
        owner: this replica's id; it answers at `alive_subject(owner)`.
    """

    def __init__(self, bus: NatsBus, owner: str) -> None:
        self.bus = bus
        self.owner = owner
        self.held: dict[Slot, Callable[[], None]] = {}
        self.connected_since = time.monotonic()
        self._bucket: KeyValue | None = None

    async def start(self) -> None:
        """Make the bucket, or find it; waits for the bus as long as it takes."""
        await self.bus.client.subscribe(alive_subject(self.owner), cb=_answer)
        while True:
            try:
                await self._open()
            except Unavailable as error:
                log.warning("waiting for the bucket of sockets", error=error.message)
                await asyncio.sleep(0.5)
            else:
                return

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            # In memory, since thousands are renewed all the time; when the bus
            # is started again, `renew` brings back what is held.
            config = KeyValueConfig(
                bucket=BUCKET, history=1, ttl=LIFE, direct=True, storage=StorageType.MEMORY
            )
            try:
                self._bucket = await self.bus.client.jetstream().create_key_value(config)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                raise Unavailable("the bus is away", retry_after=1) from error
        return self._bucket

    async def claim(self, account: str, lost: Callable[[], None]) -> Slot:
        """One of the account's slots; `lost` is called if it is taken away again.

        Raises:
            RateLimited: all are held, by sockets that are there.
            Unavailable: nobody can count.
        """
        bucket = await self._open()
        try:
            slot = await self._create(bucket, account) or await self._take_over(bucket, account)
        except GONE as error:
            self._bucket = None  # made again by the next one
            raise Unavailable("sockets cannot be counted; try again", retry_after=1) from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable("the bus is away", retry_after=1) from error
        if slot is None:
            raise full()
        self.held[slot] = lost
        return slot

    async def _create(self, bucket: KeyValue, account: str) -> Slot | None:
        holder = self._holder()
        # In random order, so that sockets that come together rarely meet at a key.
        for number in random.sample(range(PER_ACCOUNT), PER_ACCOUNT):
            key = f"{token(account)}.{number}"
            try:
                return Slot(account, key, holder, await bucket.create(key, holder))
            except nats.js.errors.KeyWrongLastSequenceError:
                continue
        return None

    def _holder(self) -> bytes:
        """Which replica, and which of its sockets."""
        return f"{self.owner}.{secrets.token_hex(4)}".encode()

    async def _take_over(self, bucket: KeyValue, account: str) -> Slot | None:
        if time.monotonic() - self.connected_since < SETTLING:
            return None
        alive: dict[str, bool] = {self.owner: True}
        for number in range(PER_ACCOUNT):
            key = f"{token(account)}.{number}"
            try:
                entry = await bucket.get(key)
                owner = (entry.value or b"").decode().partition(".")[0]
                if owner not in alive:
                    alive[owner] = await self._answers(owner)
                if not alive[owner]:
                    holder = self._holder()
                    revision = await bucket.update(key, holder, entry.revision)
                    return Slot(account, key, holder, revision)
            except nats.js.errors.KeyNotFoundError:
                return await self._create(bucket, account)  # one was given back meanwhile
            except nats.js.errors.KeyWrongLastSequenceError:
                continue
        return None

    async def _answers(self, owner: str) -> bool:
        """Whether a replica is there; only the server's own word counts as no."""
        try:
            await self.bus.client.request(alive_subject(owner), b"", timeout=1)
        except nats.errors.NoRespondersError:
            return False
        except (nats.errors.Error, OSError, TimeoutError):
            return True
        return True

    async def release(self, slot: Slot) -> None:
        """Give it back; if the bus is away it will vanish by itself."""
        if self.held.pop(slot, None) is None:
            return
        try:
            async with slot.lock:
                await (await self._open()).delete(slot.key, last=slot.revision)
        except (nats.errors.Error, OSError, TimeoutError, Unavailable) as error:
            log.info("slot not given back", error=repr(error))

    async def keep(self) -> None:
        """Renew what is held, for ever."""
        while True:
            await asyncio.sleep(RENEWAL)
            await self.renew()

    async def renew(self) -> None:
        limit = asyncio.Semaphore(AT_ONCE)

        async def one(slot: Slot) -> None:
            async with limit, slot.lock:
                if slot in self.held:
                    await self._renew(slot)

        await asyncio.gather(*(one(slot) for slot in list(self.held)))

    async def _renew(self, slot: Slot) -> None:
        try:
            try:
                await self._update(await self._open(), slot)
            except GONE:
                self._bucket = None
                await self._update(await self._open(), slot)
        except (nats.errors.Error, OSError, TimeoutError, Unavailable) as error:
            log.warning("slot not renewed", error=repr(error))

    async def _update(self, bucket: KeyValue, slot: Slot) -> None:
        try:
            slot.revision = await bucket.update(slot.key, slot.holder, slot.revision)
        except nats.js.errors.KeyWrongLastSequenceError:
            if await self._is_held(bucket, slot):
                return
            # It vanished while the bus was away, and perhaps somebody else has it now.
            other = await self._create(bucket, slot.account)
            if other is not None:
                slot.key, slot.holder, slot.revision = other.key, other.holder, other.revision
            elif (lost := self.held.pop(slot, None)) is not None:
                lost()

    async def _is_held(self, bucket: KeyValue, slot: Slot) -> bool:
        """Whether the last renewal was done, and only the word of it lost."""
        try:
            entry = await bucket.get(slot.key)
        except nats.js.errors.KeyNotFoundError:
            return False
        if entry.value != slot.holder or entry.revision is None:
            return False
        slot.revision = entry.revision
        return True


def alive_subject(owner: str) -> str:
    return f"rpc.realtime.alive.{owner}"


async def _answer(message: Msg) -> None:
    await message.respond(b"")
