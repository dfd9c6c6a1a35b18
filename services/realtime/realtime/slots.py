"""The limit of ten sockets per account, across all replicas.

Each socket holds one of its account's ten keys in a key-value bucket. A key can be created
once, so no two sockets hold the same one. It expires 45 s after its replica last renewed
it, so a crash leaves nothing behind for long. Before an account is refused, the keys of
replicas that no longer answer on the bus are taken over, so that the clients of a killed
replica need not wait for that either.
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

from common.background import retry
from common.bus import NatsBus, token
from common.errors import RateLimited, Unavailable

log = structlog.get_logger()

BUCKET = "sockets"
MAX_PER_ACCOUNT = 10
# A key's lifetime, and the time between renewals: two may fail.
TTL_S, RENEWAL_S = 45.0, 15.0
# Renewals that run at a time.
MAX_CONCURRENT_RENEWALS = 16
# After the bus connection was made, how long another replica's silence means nothing: it may
# not have reconnected yet.
SETTLING_S = 3.0
# How long another replica may take to say that it is alive.
ALIVE_TIMEOUT_S = 1.0

# The errors of a bucket that was deleted.
MISSING = (nats.js.errors.NotFoundError, nats.js.errors.NoStreamResponseError)


def full() -> RateLimited:
    """Return a new error; a shared one would accumulate tracebacks."""
    return RateLimited(
        f"all {MAX_PER_ACCOUNT} sockets of the account are in use; close one first",
        limit=MAX_PER_ACCOUNT,
    )


@dataclass(slots=True, eq=False)
class Slot:
    """A key of the bucket that a socket holds; `holder` is the key's value.

    `lock` separates release and renewal.
    """

    account: str
    key: str
    holder: bytes
    revision: int
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Slots:
    """The slots held by this replica's sockets.

    Args:
        bus: the connection to the bucket's server.
        owner: this replica's id, under which it answers at `alive_subject(owner)`.
    """

    def __init__(self, bus: NatsBus, owner: str) -> None:
        self.bus = bus
        self.owner = owner
        self.held: dict[Slot, Callable[[], None]] = {}
        self.connected_since_s = time.monotonic()
        self._bucket: KeyValue | None = None

    async def start(self) -> None:
        """Create or find the bucket; wait for the bus as long as necessary."""
        await self.bus.client.subscribe(alive_subject(self.owner), cb=_answer)
        await retry(self._open, Unavailable, waiting_for="the slot bucket")

    async def _open(self) -> KeyValue:
        if self._bucket is None:
            # In memory: thousands of keys are renewed all the time, and after a restart of
            # the bus `renew` creates those that are held.
            config = KeyValueConfig(
                bucket=BUCKET,
                history=1,
                ttl=TTL_S,
                direct=True,
                storage=StorageType.MEMORY,
                replicas=self.bus.stream_replicas,
            )
            try:
                self._bucket = await self.bus.client.jetstream().create_key_value(config)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                raise Unavailable("the bus is unavailable; try again", retry_after=1) from error
        return self._bucket

    async def claim(self, account: str, lost: Callable[[], None]) -> Slot:
        """Claim one of the account's slots; `lost` is called if another replica takes it.

        Raises:
            RateLimited: open sockets hold all slots of the account.
            Unavailable: the bucket cannot be reached.
        """
        bucket = await self._open()
        try:
            slot = await self._create(bucket, account) or await self._take_over(bucket, account)
        except MISSING as error:
            self._bucket = None  # the next caller creates it
            raise Unavailable(
                "the account's sockets cannot be counted now; try again", retry_after=1
            ) from error
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise Unavailable("the bus is unavailable; try again", retry_after=1) from error
        if slot is None:
            raise full()
        self.held[slot] = lost
        return slot

    async def _create(self, bucket: KeyValue, account: str) -> Slot | None:
        holder = self._holder()
        # In random order, so that sockets opened together rarely try the same key.
        for number in random.sample(range(MAX_PER_ACCOUNT), MAX_PER_ACCOUNT):
            key = f"{token(account)}.{number}"
            try:
                return Slot(account, key, holder, await bucket.create(key, holder))
            except nats.js.errors.KeyWrongLastSequenceError:
                continue
        return None

    def _holder(self) -> bytes:
        """Return a new value for a key: the ids of the replica and of a socket."""
        return f"{self.owner}.{secrets.token_hex(4)}".encode()

    async def _take_over(self, bucket: KeyValue, account: str) -> Slot | None:
        if time.monotonic() - self.connected_since_s < SETTLING_S:
            return None
        alive: dict[str, bool] = {self.owner: True}
        for number in range(MAX_PER_ACCOUNT):
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
                return await self._create(bucket, account)  # one was released meanwhile
            except nats.js.errors.KeyWrongLastSequenceError:
                continue
        return None

    async def _answers(self, owner: str) -> bool:
        """Whether a replica may be alive; only the bus's "no responders" proves it dead."""
        try:
            await self.bus.client.request(alive_subject(owner), b"", timeout=ALIVE_TIMEOUT_S)
        except nats.errors.NoRespondersError:
            return False
        except (nats.errors.Error, OSError, TimeoutError):
            return True
        return True

    async def release(self, slot: Slot) -> None:
        """Release a slot; if the bus is unavailable, the slot expires."""
        if self.held.pop(slot, None) is None:
            return
        try:
            async with slot.lock:
                await (await self._open()).delete(slot.key, last=slot.revision)
        except (nats.errors.Error, OSError, TimeoutError, Unavailable) as error:
            log.info("slot not released", error=repr(error))

    async def keep_renewing(self) -> None:
        """Renew every held slot until cancelled."""
        while True:
            await asyncio.sleep(RENEWAL_S)
            await self.renew()

    async def renew(self) -> None:
        limit = asyncio.Semaphore(MAX_CONCURRENT_RENEWALS)

        async def renew_slot(slot: Slot) -> None:
            async with limit, slot.lock:
                if slot in self.held:
                    await self._renew(slot)

        await asyncio.gather(*(renew_slot(slot) for slot in list(self.held)))

    async def _renew(self, slot: Slot) -> None:
        try:
            try:
                await self._update(await self._open(), slot)
            except MISSING:
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
            # It expired while the bus was unavailable, and another socket may hold it now.
            other = await self._create(bucket, slot.account)
            if other is not None:
                slot.key, slot.holder, slot.revision = other.key, other.holder, other.revision
            elif (lost := self.held.pop(slot, None)) is not None:
                lost()

    async def _is_held(self, bucket: KeyValue, slot: Slot) -> bool:
        """Whether the bucket still has this slot, so that only an acknowledgement was lost."""
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
