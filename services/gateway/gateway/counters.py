"""Exact request counts across replicas, from JetStream message counters.

An account has one counter per group of policies and epoch: a subject whose
message the server increments by a big integer and returns (NATS ADR-49). The
integer is a row of 24-bit digits, one for each policy in each slot, a twentieth
of the window. One message thus counts a request against several policies, and
its reply holds every other request of the epoch, in the order in which the
server counted them. A request counts for its slot and the twenty after it, so
any 60 seconds admit at most the limit. In return, a request counts for up to
63.5 seconds. (One counter of the last minute,
weighted by its overlap, would admit twice the limit after a burst at the
minute's end.)

Replicas' clocks differ by less than `SKEW_S`. That admits nothing twice:

* A reply that arrives after the end of its slot, by the replica's own clock, is
  given back and counted again. So no replica counts into a slot later than
  `SKEW_S` after its end.
* Until `SKEW_S` after the start of an epoch, the counter of the previous epoch is
  read after every count; from `SKEW_S` before the end, the counter of the next.
  Until `SKEW_S` after the start of a slot, one slot more counts at the far end.
* So of all requests within 60 seconds, the one that the server counted last has
  seen all the others, and that one was admitted.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from common.bus import NatsBus
from common.errors import NoResponders, Unavailable
from common.instruments import Histogram
from gateway.counter_store import Asked, CounterStore, subject_of, value_in, value_of
from gateway.memory import remember
from gateway.windows import (
    EPOCH_SLOTS,
    PLACES,
    SKEW_S,
    SLOTS,
    Count,
    Policy,
    Window,
    amount_of,
    first_slot,
)

# Counters in this process's memory; the oldest are evicted first.
MAX_COUNTERS = 20_000
Places = tuple[int, ...]
Waiting = tuple["asyncio.Future[Count]", Places]


@dataclass(slots=True)
class Counter:
    """One account's counter in one epoch, a range of time slots.

    Requests that arrive together, or while the server is being asked, are
    counted by one message.

    Attributes:
        previous: the counter of the epoch before, None until it was read.
        settled: whether `previous` can no longer change.
        busy: whether a message is under way; requests then wait for the next.
        pending: requests that have no count yet.
        used: the last reply's total of each place, with requests that have expired since.
        sent_s: when the pending message was sent, as `time.perf_counter` counts.
    """

    policy: Policy
    account: str
    epoch: int
    previous: int | None = None
    settled: bool = False
    busy: bool = False
    waiting: list[Waiting] = field(default_factory=list)
    pending: int = 0
    used: list[int] = field(default_factory=lambda: [0] * PLACES)
    sent_s: float = 0.0

    @property
    def begin(self) -> float:
        return self.policy.begin(self.epoch * EPOCH_SLOTS)

    @property
    def end(self) -> float:
        return self.policy.begin((self.epoch + 1) * EPOCH_SLOTS)

    def needs_previous(self, slot: int) -> bool:
        return not self.settled and slot - SLOTS - 1 < self.epoch * EPOCH_SLOTS


class Counters:
    """The counters of all accounts.

    Args:
        bus: the connection to the counters' server.
        now: seconds since 1970; replicas' clocks differ by less than `SKEW_S`.
    """

    def __init__(self, bus: NatsBus, now: Callable[[], float]) -> None:
        self.store = CounterStore(bus)
        self.now = now
        self._counters: dict[tuple[str, str], Counter] = {}
        self.durations = Histogram()

    def count(self, account: str, policies: Sequence[Policy]) -> "asyncio.Future[Count]":
        """Count a request against policies that share a counter; awaiting may raise Unavailable."""
        counter = self._counter(account, policies[0])
        counted: asyncio.Future[Count] = asyncio.get_running_loop().create_future()
        counter.waiting.append((counted, tuple([policy.place for policy in policies])))
        counter.pending += 1
        if not counter.busy:
            self._send(counter)
        return counted

    def used(self, account: str, policy: Policy) -> int:
        """Return the last total that the server reported, plus this replica's pending requests."""
        counter = self._counters.get((policy.counter, account))
        return 0 if counter is None else counter.used[policy.place] + counter.pending

    async def read(self, account: str, policy: Policy) -> Window:
        """Read an account's counts under one policy; raises Unavailable."""
        now = self.now()
        slot = policy.slot(now)
        first = first_slot(policy, slot, now)
        last = slot + (now >= policy.begin(slot + 1) - SKEW_S)
        epochs = range(first // EPOCH_SLOTS, last // EPOCH_SLOTS + 1)
        replies = [self.store.read(policy, account, epoch) for epoch in epochs]
        values = [await value_of(reply) for reply in replies]
        return Window(slot, first, tuple(zip(epochs, values, strict=True)))

    def give_back(self, account: str, policies: Sequence[Policy], slot: int) -> None:
        """Uncount a request, in the background; concurrent calls share one message."""
        self.store.give_back(
            subject_of(policies[0], account, slot // EPOCH_SLOTS),
            amount_of(slot, [policy.place for policy in policies]),
        )

    def _counter(self, account: str, policy: Policy) -> Counter:
        """Return the account's counter in the current epoch."""
        key, epoch = (policy.counter, account), policy.slot(self.now()) // EPOCH_SLOTS
        known = self._counters.get(key)
        if known is not None and known.epoch >= epoch:
            return known
        counter = Counter(policy, account, epoch)
        if known is not None:
            counter.used = known.used
        remember(self._counters, key, counter, MAX_COUNTERS)
        return counter

    def _send(self, counter: Counter) -> None:
        """Count all waiting requests with one message."""
        batch, counter.waiting = counter.waiting, []
        counter.busy, counter.sent_s = True, time.perf_counter()
        policy, now = counter.policy, self.now()
        # A request that waited over the epoch's end is counted in its last slot, found late, and
        # counted again.
        slot = min(policy.slot(now), (counter.epoch + 1) * EPOCH_SLOTS - 1)
        amount = amount_of(slot, [place for _, places in batch for place in places])
        subject = subject_of(policy, counter.account, counter.epoch)
        counted = self.store.add(subject, amount)
        previous: Asked | None = None
        if now >= counter.begin + SKEW_S and counter.needs_previous(slot):
            # No replica counts into the previous epoch any more: read it at the same time.
            previous = self.store.read(policy, counter.account, counter.epoch - 1)
        counted.add_done_callback(
            partial(self._counted, counter, batch, subject, slot, amount, previous)
        )

    def _counted(
        self,
        counter: Counter,
        batch: list[Waiting],
        subject: str,
        slot: int,
        amount: int,
        previous: Asked | None,
        reply: Asked,
    ) -> None:
        try:
            value = value_in(reply.result())
        except NoResponders:
            self.store.tasks.start(self._recount_in_new_stream(counter, batch))
            return
        except Unavailable as error:
            self._fail(counter, batch, error)
            return
        self.durations.observe(time.perf_counter() - counter.sent_s)
        now = self.now()
        if now >= counter.policy.begin(slot + 1):
            # Sent before the next count, so the server uncounts it first.
            self.store.tasks.start(self.store.confirm(subject, self.store.add(subject, -amount)))
            self._recount(counter, batch)
        elif counter.needs_previous(slot) or now >= counter.end - SKEW_S:
            self.store.tasks.start(self._read_neighbours(counter, batch, slot, value, previous))
        else:
            self._resolve(counter, batch, slot, value, now)

    async def _recount_in_new_stream(self, counter: Counter, batch: list[Waiting]) -> None:
        """Recreate a stream that the server has lost, and count the batch again."""
        try:
            await self.store.make_stream(counter.policy)
        except Unavailable as error:
            self._fail(counter, batch, error)
        else:
            counter.waiting = batch + counter.waiting
            self._send(counter)

    async def _read_neighbours(
        self,
        counter: Counter,
        batch: list[Waiting],
        slot: int,
        value: int,
        previous: Asked | None,
    ) -> None:
        """Read the adjacent epochs' counters that matter too, once the batch has been counted."""
        policy, account, until = counter.policy, counter.account, self.now()
        following: int | None = None
        try:
            if until >= counter.end - SKEW_S:
                reply = self.store.read(policy, account, counter.epoch + 1)
                following = await value_of(reply)
            if counter.needs_previous(slot):
                if previous is None:
                    previous = self.store.read(policy, account, counter.epoch - 1)
                else:
                    until = counter.begin + SKEW_S
                counter.previous = await value_of(previous)
                counter.settled = until >= counter.begin + SKEW_S
        except Unavailable as error:
            places = [place for _, places in batch for place in places]
            self.store.give_back(
                subject_of(policy, account, counter.epoch), amount_of(slot, places)
            )
            self._fail(counter, batch, error)
        else:
            self._resolve(counter, batch, slot, value, self.now(), following)

    def _resolve(
        self,
        counter: Counter,
        batch: list[Waiting],
        slot: int,
        value: int,
        now: float,
        following: int | None = None,
    ) -> None:
        """Give each request of the batch its count."""
        epoch, first = counter.epoch, first_slot(counter.policy, slot, now)
        values: tuple[tuple[int, int], ...] = ((epoch, value),)
        if counter.previous is not None and first < epoch * EPOCH_SLOTS:
            values = ((epoch - 1, counter.previous), *values)
        if following is not None:
            values = (*values, (epoch + 1, following))
        window = Window(slot, first, values)
        later = [0] * PLACES
        for counted, places in reversed(batch):
            if not counted.done():
                counted.set_result(Count(window, tuple(later)))
            for place in places:
                later[place] += 1
        counter.used = window.totals
        self._finish(counter, batch)

    def _fail(self, counter: Counter, batch: list[Waiting], error: Unavailable) -> None:
        for counted, _ in batch:
            if not counted.done():
                counted.set_exception(error)
        self._finish(counter, batch)

    def _finish(self, counter: Counter, batch: list[Waiting]) -> None:
        counter.pending -= len(batch)
        if counter.waiting:
            self._send(counter)
        else:
            counter.busy = False

    def _recount(self, counter: Counter, batch: list[Waiting]) -> None:
        """Count a batch again, in the current time slot, since its reply came too late."""
        batch, counter.waiting = [*batch, *counter.waiting], []
        counter.busy = False
        counter.pending -= len(batch)
        current = self._counter(counter.account, counter.policy)
        current.waiting += batch
        current.pending += len(batch)
        if not current.busy:
            self._send(current)
