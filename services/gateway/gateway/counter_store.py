"""The store of request counters: it adds to them, reads them, and subtracts from them.

A counter is a subject of a stream whose message the server increments (NATS ADR-49).
"""

import asyncio
from dataclasses import replace
from functools import lru_cache

import nats.errors
import nats.js.errors
import orjson
import structlog
from nats.js import JetStreamContext
from nats.js.api import DiscardPolicy, PersistMode, StorageType, StreamConfig

from common.background import Background
from common.bus import NatsBus, token
from common.connection import ReceivedMessage
from common.errors import NoResponders, Unavailable
from gateway.windows import Policy

log = structlog.get_logger()

# Counting takes a quarter of a millisecond; a bus that needs longer than this on a busy machine
# is unavailable.
COUNT_TIMEOUT_S = 3.0
# A counter takes 150 to 500 bytes and expires after three windows and a minute; beyond this the
# server evicts the oldest. That is some 600 new accounts a second.
MAX_STREAM_BYTES = 64 * 1024 * 1024
# The stream of earlier versions, and the server's code for overlapping subjects.
OLD_STREAM, OVERLAP_CODE = "LIMITS", 10065
UNCOUNTED = "requests cannot be counted at present; try again"

Asked = asyncio.Future[ReceivedMessage]


class CounterStore:
    """All counters, as messages in JetStream streams."""

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self.tasks = Background()
        self._owed: dict[str, int] = {}

    async def make_stream(self, policy: Policy) -> None:
        """Create or update the stream of a window's counters; raises Unavailable.

        On one server it is a file, so that it outlives a restart. The server writes it in the
        background, which costs no more than memory: the kill of the server loses the counts of
        its last milliseconds, which other servers still have. While the server's disk is full,
        it is in memory until the server restarts.
        """
        alone = self.bus.stream_replicas == 1
        config = StreamConfig(
            name=policy.stream,
            num_replicas=self.bus.stream_replicas,
            subjects=[f"limit.{policy.window}.>"],
            storage=StorageType.FILE if alone else StorageType.MEMORY,
            persist_mode=PersistMode.ASYNC if alone else None,
            discard=DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=3 * policy.window + 60,
            max_bytes=MAX_STREAM_BYTES,
            allow_direct=True,
            allow_msg_counter=True,
        )
        if not self.bus.client.is_connected:
            raise Unavailable(UNCOUNTED, retry_after=1)
        stream = self.bus.client.jetstream(timeout=COUNT_TIMEOUT_S)
        try:
            try:
                await stream.add_stream(config)
            except nats.js.errors.BadRequestError as error:
                if error.err_code == OVERLAP_CODE:
                    await stream.delete_stream(OLD_STREAM)
                    await stream.add_stream(config)
                else:  # it exists, made by another version
                    await _change(stream, config)
            if not await self._counts(policy):
                await _move_to_memory(stream, config)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(UNCOUNTED, retry_after=1) from error

    async def _counts(self, policy: Policy) -> bool:
        """Return whether the stream takes counts; one whose file cannot be written does not."""
        try:
            value_in(await self.add(f"limit.{policy.window}.check", 0))
        except Unavailable:
            if not self.bus.available:  # it may, once the bus is back
                raise
            return False
        return True

    def add(self, subject: str, amount: int) -> Asked:
        """Add to the counter; the reply holds its new value, see `value_in`."""
        return self._ask(subject, _increment(amount))

    def read(self, policy: Policy, account: str, epoch: int) -> Asked:
        """Ask for a counter's value, see `value_of`.

        The stream has one replica, so a read sees every acknowledged count.
        """
        subject = f"$JS.API.DIRECT.GET.{policy.stream}.{subject_of(policy, account, epoch)}"
        reply = self._ask(subject)
        # The reply may never be awaited.
        reply.add_done_callback(_retrieve)
        return reply

    def give_back(self, subject: str, amount: int) -> None:
        """Subtract in the background; concurrent calls share one message."""
        if subject not in self._owed:
            self.tasks.start(self._subtract_owed(subject))
        self._owed[subject] = self._owed.get(subject, 0) + amount

    async def _subtract_owed(self, subject: str) -> None:
        await asyncio.sleep(0)
        await self.confirm(subject, self.add(subject, -self._owed.pop(subject)))

    async def confirm(self, subject: str, reply: Asked) -> None:
        """Wait until a subtraction is confirmed; log it if it failed."""
        try:
            value_in(await reply)
        except Unavailable:
            log.warning("requests not uncounted", subject=subject)

    def _ask(self, subject: str, headers: dict[str, str] | None = None) -> Asked:
        """Send a request as `bus.send_request` does, but raise Unavailable only when awaited."""
        try:
            return self.bus.send_request(subject, b"", COUNT_TIMEOUT_S, headers)
        except Unavailable as error:
            failed: Asked = asyncio.get_running_loop().create_future()
            failed.set_exception(error)
            return failed


async def _change(stream: JetStreamContext, config: StreamConfig) -> None:
    """Update a stream, except its storage, which the server cannot change."""
    there = (await stream.stream_info(str(config.name))).config
    kept = replace(config, storage=there.storage, persist_mode=there.persist_mode)
    try:
        await stream.update_stream(kept)
    except (nats.js.errors.BadRequestError, nats.js.errors.ServerError):
        await stream.delete_stream(str(config.name))
        await stream.add_stream(config)


async def _move_to_memory(stream: JetStreamContext, config: StreamConfig) -> None:
    """Replace a stream on a full disk by one in memory, unless another replica already has."""
    there = (await stream.stream_info(str(config.name))).config
    if there.storage == StorageType.FILE:
        log.error("counting in memory: the bus cannot write to its disk", stream=config.name)
        await stream.delete_stream(str(config.name))
        await stream.add_stream(replace(config, storage=StorageType.MEMORY, persist_mode=None))


def subject_of(policy: Policy, account: str, epoch: int) -> str:
    """Name an account's counter in one epoch."""
    return f"limit.{policy.window}.{policy.counter}.{token(account)}.{epoch}"


@lru_cache(maxsize=1024)
def _increment(amount: int) -> dict[str, str]:
    """Return the header that adds to a counter; cached, since large integers are slow to write."""
    return {"Nats-Incr": f"{amount:+d}"}


def value_in(reply: ReceivedMessage) -> int:
    """Return the counter's value in a reply."""
    answer = orjson.loads(reply.data)
    if "val" not in answer:
        log.error("counting failed", answer=answer)
        raise Unavailable(UNCOUNTED, retry_after=1)
    return int(answer["val"])


async def value_of(pending: Asked) -> int:
    """Return the counter's value, 0 where it does not exist; raises Unavailable."""
    try:
        reply = await pending
    except NoResponders:  # no stream: nothing was counted
        return 0
    return 0 if reply.headers.get("Status") else value_in(reply)


def _retrieve(reply: Asked) -> None:
    if not reply.cancelled():
        reply.exception()
