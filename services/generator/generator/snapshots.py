"""Cache of snapshots: coalesces concurrent reads, backs off while the Hub is unavailable.

A commit never changes, so its snapshot, or the refusal of its content, stays valid. A branch, or a
refusal by the Hub itself, is read again after FRESH_S seconds. While the Hub is unavailable, the
last known commit is served along with its age, or the snapshot of another replica (`shared`).
"""

import asyncio
import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import structlog

from common.contracts.address import COMMIT, Address
from common.errors import HubUnavailable, ModelNotFound, ModelRefused, ServiceError
from generator import description, onnx_reading, suggestion
from generator.description import Description
from generator.hub import NO_SUCH_MODEL, Hub, HubDown, NoSuchModel, within
from generator.shared import MAX_AGE_S as STALE
from generator.shared import SharedSnapshots
from generator.snapshot import Snapshot

log = structlog.get_logger()

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# Seconds: the caller waits 18 (contracts.generation), and needs the rest to queue and render.
READ_TIMEOUT_S = 12.0
FRESH_S = 60.0
# A snapshot is about 10 kB, and at most 1 MiB for weights in 2,000 files.
MAX_SNAPSHOTS = 512
# Reasons that may become obsolete: access is granted, a model enabled, or a lost file restored.
CHANGING = {"gated", "disabled", "incomplete"}
MAX_FAILURES = 3
OPEN_S = 10.0


class Recent(OrderedDict[Key, Value], Generic[Key, Value]):
    """Cache of at most `max_size` entries that evicts the least recently used."""

    def __init__(self, max_size: int) -> None:
        super().__init__()
        self.max_size = max_size

    def use(self, key: Key) -> Value | None:
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def keep(self, key: Key, value: Value) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.max_size:
            self.popitem(last=False)


class Breaker:
    """A circuit breaker: opens after MAX_FAILURES in a row, for OPEN_S or the Hub's Retry-After.

    One request may then try again. Only failures of the whole Hub count, not a model that takes too
    long to read or whose response is malformed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.failures = 0
        self.closed_at = 0.0

    def admit(self) -> None:
        if self.failures >= MAX_FAILURES:
            wait = self.closed_at - self.clock()
            if wait > 0:
                raise HubUnavailable(
                    "the Hugging Face Hub is unavailable; try again shortly",
                    retry_after=int(wait) + 1,
                )
            self.closed_at = self.clock() + OPEN_S  # this caller tries; the others wait

    def report(self, error: ServiceError | None) -> None:
        if not isinstance(error, HubUnavailable):
            self.failures = 0
        elif isinstance(error, HubDown):
            # Open at once if the Hub has stated when to retry.
            is_limited = error.details.get("reason") == "hub-limit"
            self.failures = max(self.failures + 1, MAX_FAILURES if is_limited else 0)
            self.closed_at = self.clock() + max(OPEN_S, float(error.retry_after or 0))


class Snapshots:
    """Cache of the snapshots that are read with one token.

    Args:
        hub: the Hub, with that token.
        shared: the snapshots of all replicas.
        clock: the current time in seconds, from any starting point.
        open_models: lower-case ids of the gated or private models that any account may read with
            the token; None: all that the token can read.
        max_size: the number of snapshots to cache.
    """

    def __init__(
        self,
        hub: Hub,
        shared: SharedSnapshots | None = None,
        clock: Callable[[], float] = time.monotonic,
        open_models: frozenset[str] | None = frozenset(),
        max_size: int = MAX_SNAPSHOTS,
    ) -> None:
        self.hub = hub
        self.shared = shared
        self.open_models = open_models
        self.clock = clock
        self.breaker = Breaker(clock)
        self._kept: Recent[tuple[str, str], Snapshot] = Recent(max_size)
        # (requested id, revision) -> (canonical id, commit), and when the Hub confirmed it.
        self._known: Recent[tuple[str, str], tuple[tuple[str, str], float]] = Recent(8 * max_size)
        # Refusals with their time; those of a commit's content, which never expire.
        self._refused: Recent[tuple[str, str], tuple[ServiceError, float]] = Recent(8 * max_size)
        self._unservable: Recent[tuple[str, str], ModelRefused] = Recent(8 * max_size)
        self._under_way: dict[tuple[str, str], asyncio.Task[Snapshot]] = {}

    async def read(self, address: Address) -> tuple[Snapshot, float]:
        """Return the model at the address, and the seconds since the Hub last confirmed it.

        Raises:
            HubUnavailable: the Hub is unavailable, and no snapshot of the last day exists.
            ModelNotFound, ModelRefused: the Hub, or the model's content, says so.
        """
        key = (address.id, address.at)
        known, age = self._recall(key)
        if known and (age < FRESH_S or COMMIT.fullmatch(address.revision)):
            return known, 0.0
        if refused := self._recall_refusal(key):
            raise refused
        try:
            return await self._once(key, lambda: self._read(address)), 0.0
        except HubUnavailable as error:
            if known is None or age >= STALE:
                known, age = await self._recall_shared(address)
            if known and age < STALE:
                log.warning(
                    "Hub unavailable, serving a cached snapshot", age=age, error=error.message
                )
                return known, age
            raise

    def _recall(self, key: tuple[str, str]) -> tuple[Snapshot | None, float]:
        commit, when = self._known.use(key) or (None, 0.0)
        return (self._kept.use(commit) if commit else None), self.clock() - when

    async def _recall_shared(self, address: Address) -> tuple[Snapshot | None, float]:
        """Like `_recall`, for snapshots that another replica has read."""
        entry = await self.shared.find(address.id, address.at) if self.shared else None
        if entry is None:
            return None, 0.0
        read, age = entry
        self._remember(address, read, self.clock() - age)
        return read, 0.0 if COMMIT.fullmatch(address.revision) else age

    def _recall_refusal(self, key: tuple[str, str]) -> ServiceError | None:
        refused, when = self._refused.use(key) or (None, 0.0)
        # A copy, because a raised error keeps its traceback alive.
        return copy.copy(refused) if refused and self.clock() - when < FRESH_S else None

    async def _once(
        self, key: tuple[str, str], start: Callable[[], Coroutine[Any, Any, Snapshot]]
    ) -> Snapshot:
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(start())
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
            # Retrieve the error in case every caller has been cancelled.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Shielded, so that one caller's cancellation does not end the read for the others.
        return await asyncio.shield(task)

    async def _read(self, address: Address) -> Snapshot:
        self.breaker.admit()
        try:
            read: Snapshot = await within(READ_TIMEOUT_S, self._read_anew(address))
        except ServiceError as error:
            self.breaker.report(error)
            if not isinstance(error, (ModelRefused, ModelNotFound)):
                raise
            if isinstance(error, NoSuchModel):
                error = await suggestion.add(self.hub, address.id, error)
            refused = copy.copy(error), self.clock()
            self._refused.keep((address.id, address.at), refused)
            raise error from None
        self.breaker.report(None)
        self._remember(address, read, self.clock())
        if self.shared:
            for id, at in {(address.id, address.at), (read.id, address.beside(read.commit))}:
                self.shared.keep(id, at, read)
        return read

    def _remember(self, address: Address, read: Snapshot, when: float) -> None:
        commit = (read.id, address.beside(read.commit))
        self._kept.keep(commit, read)
        for at in (address.at, commit[1]):
            self._known.keep((address.id, at), (commit, when))

    async def _read_anew(self, address: Address) -> Snapshot:
        described = await description.describe(self.hub, address.id, address.revision)
        self._refuse_closed(described)
        at = (described.id, address.beside(described.sha))
        if refused := self._unservable.use(at):
            raise copy.copy(refused)
        kept = self._kept.use(at)
        if kept is None and self.shared:
            kept, _ = await self.shared.find(*at) or (None, 0.0)
        if kept:  # the content is immutable, but not whether the model is gated or disabled
            return replace(kept, description=description.remembered(described))
        try:
            return await onnx_reading.read_model(self.hub, described, address.file)
        except ModelRefused as error:
            if error.details["reason"] not in CHANGING:
                self._unservable.keep(at, copy.copy(error))
            raise

    def _refuse_closed(self, described: Description) -> None:
        """Refuse a gated or private model that only the operator's own token may read."""
        if self.open_models is None or not described.is_closed:
            return
        if described.id.lower() in self.open_models:
            return
        if described.private:  # the same message as for a model that does not exist
            raise NoSuchModel(NO_SUCH_MODEL)
        raise self.hub.gated(described.id)
