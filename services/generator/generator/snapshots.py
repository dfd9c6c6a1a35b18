"""Keeps models that were read, asks for each only once at a time, and spares a Hub that is away.

A commit never changes, so what was read of it stays true, a refusal too; what a branch points to
is asked again, after FRESH, and what the Hub itself refuses. While the Hub is away the last known
commit answers, and the answer says how old that knowledge is. What this process has not read,
another may have (`shared`).
"""

import asyncio
import copy
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import replace
from typing import Any, Generic, TypeVar

import structlog

from common.errors import HubUnavailable, ModelNotFound, ModelRefused, ServiceError
from generator import snapshot
from generator.address import COMMIT, Address
from generator.hub import Hub, within
from generator.shared import LONGEST as STALE
from generator.shared import Shared
from generator.snapshot import Snapshot

log = structlog.get_logger()

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

# The caller waits 18 s (contracts.generation); 12 leave time to wait in line and to render.
BUDGET = 12.0
FRESH = 60.0
# One snapshot is some 10 kB, and at most 1 MiB where the weights are in 2,000 files.
MOST = 512
# Access may be granted, a model be enabled, and a file that the Hub has lost be found again.
CHANGING = {"gated", "disabled", "incomplete"}
FAILURES = 3
REST = 10.0


class Recent(OrderedDict[Key, Value], Generic[Key, Value]):
    """At most `most` entries; the one unused for longest goes first."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def look(self, key: Key) -> Value | None:
        if key in self:
            self.move_to_end(key)
        return self.get(key)

    def keep(self, key: Key, value: Value) -> None:
        self[key] = value
        self.move_to_end(key)
        if len(self) > self.most:
            self.popitem(last=False)


class Breaker:
    """Open after FAILURES in a row, for REST seconds or as the Hub says; then one may try."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.failures = 0
        self.closed_at = 0.0

    def admit(self) -> None:
        if self.failures >= FAILURES:
            wait = self.closed_at - self.clock()
            if wait > 0:
                raise HubUnavailable(
                    "the Hugging Face Hub is away; it is tried again shortly",
                    retry_after=int(wait) + 1,
                )
            self.closed_at = self.clock() + REST  # whoever passes here is the one that tries

    def report(self, error: ServiceError | None) -> None:
        if not isinstance(error, HubUnavailable):
            self.failures = 0
        elif error.status == 503:  # 502 is nonsense about one model: the Hub is there
            # Whoever has said when to come back is not asked before.
            said = error.details.get("reason") == "hub-limit"
            self.failures = max(self.failures + 1, FAILURES if said else 0)
            self.closed_at = self.clock() + max(REST, float(error.retry_after or 0))


class Snapshots:
    def __init__(
        self, hub: Hub, shared: Shared | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.hub = hub
        self.shared = shared
        self.clock = clock
        self.breaker = Breaker(clock)
        self._kept: Recent[tuple[str, str], Snapshot] = Recent(MOST)
        # (id, revision) as asked for -> (canonical id, commit), and when that was true.
        self._known: Recent[tuple[str, str], tuple[tuple[str, str], float]] = Recent(8 * MOST)
        # What was refused, and when; what a commit holds is refused for as long as it is known.
        self._refused: Recent[tuple[str, str], tuple[ServiceError, float]] = Recent(8 * MOST)
        self._unservable: Recent[tuple[str, str], ModelRefused] = Recent(8 * MOST)
        self._under_way: dict[tuple[str, str], asyncio.Task[Snapshot]] = {}

    async def read(self, address: Address) -> tuple[Snapshot, float]:
        """The model at the address, and the seconds since the Hub last confirmed it.

        Raises:
            HubUnavailable: and it was not read in the last day.
            ModelNotFound, ModelRefused: as the Hub says.
        """
        key = (address.id, address.revision)
        known, age = self._recall(key)
        if known and (age < FRESH or COMMIT.fullmatch(address.revision)):
            return known, 0.0
        if refused := self._recall_refusal(key):
            raise refused
        try:
            return await self._once(key, lambda: self._read(address)), 0.0
        except HubUnavailable as error:
            if known is None or age >= STALE:
                known, age = await self._recall_shared(address)
            if known and age < STALE:
                log.warning("hub away, answering from memory", age=age, error=error.message)
                return known, age
            raise

    def _recall(self, key: tuple[str, str]) -> tuple[Snapshot | None, float]:
        commit, when = self._known.look(key) or (None, 0.0)
        return (self._kept.look(commit) if commit else None), self.clock() - when

    async def _recall_shared(self, address: Address) -> tuple[Snapshot | None, float]:
        """As `_recall`, of what another generator has read."""
        found = await self.shared.find(address.id, address.revision) if self.shared else None
        if found is None:
            return None, 0.0
        read, age = found
        self._remember(address, read, self.clock() - age)
        return read, 0.0 if COMMIT.fullmatch(address.revision) else age

    def _recall_refusal(self, key: tuple[str, str]) -> ServiceError | None:
        refused, when = self._refused.look(key) or (None, 0.0)
        # A copy: an error that is raised holds on to where it was raised.
        return copy.copy(refused) if refused and self.clock() - when < FRESH else None

    async def _once(
        self, key: tuple[str, str], start: Callable[[], Coroutine[Any, Any, Snapshot]]
    ) -> Snapshot:
        task = self._under_way.get(key)
        if task is None:
            task = self._under_way[key] = asyncio.create_task(start())
            task.add_done_callback(lambda _: self._under_way.pop(key, None))
            # When every caller has gone, its error is nobody's.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # A caller that gives up must not take the answer from the others.
        return await asyncio.shield(task)

    async def _read(self, address: Address) -> Snapshot:
        self.breaker.admit()
        try:
            read: Snapshot = await within(BUDGET, self._read_anew(address))
        except ServiceError as error:
            self.breaker.report(error)
            if isinstance(error, (ModelRefused, ModelNotFound)):
                refused = copy.copy(error), self.clock()
                self._refused.keep((address.id, address.revision), refused)
            raise
        self.breaker.report(None)
        self._remember(address, read, self.clock())
        if self.shared:
            for id, revision in {(address.id, address.revision), (read.id, read.commit)}:
                self.shared.keep(id, revision, read)
        return read

    def _remember(self, address: Address, read: Snapshot, when: float) -> None:
        commit = (read.id, read.commit)
        self._kept.keep(commit, read)
        for revision in (address.revision, read.commit):
            self._known.keep((address.id, revision), (commit, when))

    async def _read_anew(self, address: Address) -> Snapshot:
        description = await snapshot.describe(self.hub, address.id, address.revision)
        at = (description.id, description.sha)
        if refused := self._unservable.look(at):
            raise copy.copy(refused)
        kept = self._kept.look(at)
        if kept is None and self.shared:
            kept, _ = await self.shared.find(*at) or (None, 0.0)
        if kept:  # its content is the same for ever; whether it is gated or disabled is not
            return replace(kept, description=snapshot.remembered(description))
        try:
            return await snapshot.read(self.hub, description)
        except ModelRefused as error:
            if error.details["reason"] not in CHANGING:
                self._unservable.keep(at, copy.copy(error))
            raise
