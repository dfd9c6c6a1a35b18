"""Numbers for requests, exact across replicas, from JetStream message counters.

Each account has one counter per policy and slot, a twentieth of the window: a
subject whose message the server increments and answers with the new value
(NATS ADR-49), so every request everywhere gets a number of its own. What
counts is this slot and the twenty before it, so no 60 seconds ever admit more
than the limit, wherever they begin. The price is that a request counts for up
to 63.5 seconds. (One counter of the last minute, weighted by how far it still
reaches, would admit twice the limit after a burst at the minute's end.)

Replicas' clocks differ, so around a slot's end some count into it and some
into the next. Nothing is admitted twice by that:

* A number is good if it comes before the slot is over by one's own clock; else
  it is given back and another one asked for. So nobody counts into a slot
  later than `SKEW` after its end, by anybody's clock: what is read then, and
  only then, is settled and remembered.
* Until the slot before is settled it is read again after every new number. So
  is the next one from `SKEW` before one's own slot ends, and for as long after
  it began one slot more counts at the far end of the window.
* So of all requests within 60 seconds the one that the server numbered last
  has seen all the others, and it was admitted.

Who asks without pause and has a large limit is given numbers ahead, so that
not every request waits for the bus; those that are not used are taken back.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import nats.errors
import nats.js.errors
import orjson
import structlog
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from common.bus import NatsBus, NoResponders, token
from common.connection import Message
from common.errors import Unavailable
from gateway.memory import remember

log = structlog.get_logger()

# Counting takes a quarter of a millisecond; a bus that needs longer than this, on however busy a
# machine, is away. In seconds.
BUDGET = 3.0
# Of which the window is made.
SLOTS = 20
# Replicas' clocks differ by less than this, in seconds; no slot is shorter.
SKEW = 0.5
# Numbers fetched ahead, at most, and which part of a limit: none of one below 1,000.
AHEAD, AHEAD_PART = 64, 1000
# Who is back so soon, in seconds, asks without pause; what is left goes back after ten times that.
PAUSE = 0.05
# A counter takes 110 bytes, and lasts two windows and a minute; beyond this the oldest go. So 3,000
# counters of a minute may be begun each second, and 80 of an hour, in a stream of their own.
MOST_BYTES = 64 * 1024 * 1024
# Counters remembered here at once; the oldest go first.
REMEMBERED = 20_000
# Where earlier versions kept all counters, in memory as well. What the server says of its subjects.
OLD_STREAM, OVERLAP = "LIMITS", 10065
UNCOUNTED = "requests cannot be counted at present"


@dataclass(frozen=True)
class Policy:
    """`limit` requests in any `window` seconds (10 or more), `costly` ones only when counted."""

    name: str
    limit: int
    window: int = 60
    costly: bool = False

    @property
    def stream(self) -> str:
        return f"LIMITS_{self.window}"

    def slot(self, now: float) -> int:
        return int(now * SLOTS / self.window)

    def begin(self, slot: int) -> float:
        """Of a slot, and the end of the one before, in seconds since 1970."""
        return slot * self.window / SLOTS

    def forgotten(self, slot: int) -> float:
        """From when on a request of the slot does not count."""
        return self.begin(slot + SLOTS + 1) + SKEW


Number = asyncio.Future["int | None"]


@dataclass(slots=True)
class Counter:
    """One account's requests in one slot.

    Requests that come at the same time, or while the server is being asked, are
    counted together by one question, and still get a number each. `ahead`:
    numbers that are this replica's and wait for requests; `asked`: when the
    server was, monotonic, and how many numbers it was `asked_for`.

    `others` is what counts beside them, by slot; None: nothing is known yet.
    `settled`: whether that of the slot before will stay as it is.
    """

    policy: Policy
    account: str
    slot: int
    others: dict[int, int] | None = None
    settled: bool = False
    busy: bool = False
    waiting: list[Number] = field(default_factory=list)
    ahead: deque[int] = field(default_factory=deque)
    asked: float = 0.0
    asked_for: int = 0
    sum_of_others: int = 0
    oldest: int = 0

    @property
    def subject(self) -> str:
        return _subject(self.policy, self.account, self.slot)

    def follow(self, last: "Counter") -> None:
        """Know what the counter of the slot before knows."""
        if last.others is not None and last.settled and last.slot == self.slot - 1:
            self.others = {slot: n for slot, n in last.others.items() if slot < last.slot}

    def to_read(self, now: float) -> list[int]:
        """The slots that have to be read for numbers that have just come."""
        if self.others is None:
            slots = list(range(self.slot - SLOTS - 1, self.slot))
        else:
            slots = [] if self.settled else [self.slot - 1]
        if now >= self.policy.begin(self.slot + 1) - SKEW:
            slots.append(self.slot + 1)
        return slots

    def learn(self, counts: dict[int, int], asked: float) -> None:
        """What `to_read` said is read; `asked`: since when, in seconds since 1970."""
        self.others = {**(self.others or {}), **counts}
        if asked >= self.policy.begin(self.slot) + SKEW:
            self.settled = True
            self.others.pop(self.slot - SLOTS - 1, None)
        self.sum_of_others = sum(self.others.values())
        self.oldest = min((slot for slot, n in self.others.items() if n), default=self.slot)

    def more(self, now: float) -> int:
        """How many numbers to fetch ahead: twice as many each time that they were used up soon."""
        if now - self.asked > PAUSE:
            return 0
        return min(2 * self.asked_for, AHEAD, self.policy.limit // AHEAD_PART)


# The counter, and a request's number in it or what will have it: None if it came too late.
Question = tuple[Counter, "int | Number"]


class Counters:
    """The counters of all accounts.

    Args:
        bus: where they are.
        now: seconds since 1970; replicas' clocks differ by less than `SKEW`.
    """

    def __init__(self, bus: NatsBus, now: Callable[[], float]) -> None:
        self.bus = bus
        self.now = now
        self._counters: dict[tuple[str, str], Counter] = {}
        self._owed: dict[str, int] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def make_stream(self, policy: Policy) -> None:
        """Or find it. Raises Unavailable."""
        config = StreamConfig(
            name=policy.stream,
            subjects=[f"limit.{policy.window}.>"],
            storage=StorageType.MEMORY,
            discard=DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=2 * policy.window + 60,
            max_bytes=MOST_BYTES,
            allow_direct=True,
            allow_msg_counter=True,
        )
        if not self.bus.client.is_connected:
            raise Unavailable(UNCOUNTED, retry_after=1)
        stream = self.bus.client.jetstream(timeout=BUDGET)
        try:
            try:
                await stream.add_stream(config)
            except nats.js.errors.BadRequestError as error:
                if error.err_code == OVERLAP:
                    await stream.delete_stream(OLD_STREAM)
                    await stream.add_stream(config)
                else:  # it is there, made by another version
                    await stream.update_stream(config)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(UNCOUNTED, retry_after=1) from error

    def ask(self, account: str, policy: Policy) -> Question:
        """For a number, which `answer` waits for."""
        counter = self._counter(account, policy)
        if counter.ahead:
            return counter, counter.ahead.popleft()
        number: Number = asyncio.get_running_loop().create_future()
        counter.waiting.append(number)
        if not counter.busy:
            self._take(counter)
        return counter, number

    async def answer(self, question: Question) -> tuple[Counter, int]:
        """A request's number in its slot, from 1; raises Unavailable."""
        while True:
            counter, number = question
            if isinstance(number, int):
                return counter, number
            if (found := await number) is not None:
                return counter, found
            question = self.ask(counter.account, counter.policy)

    async def read(self, account: str, policy: Policy) -> dict[int, int]:
        """All that counts at present, by slot; raises Unavailable."""
        now = self.now()
        slot = policy.slot(now)
        oldest = slot - SLOTS - (now < policy.begin(slot) + SKEW)
        return await self._read_many(account, policy, range(oldest, slot + 2))

    def give_back(self, account: str, policy: Policy, slot: int) -> None:
        """A number that has turned out to count for nothing."""
        self._give_back(_subject(policy, account, slot))

    def _counter(self, account: str, policy: Policy) -> Counter:
        """Of the slot that it is now."""
        key, slot = (policy.name, account), policy.slot(self.now())
        last = self._counters.get(key)
        if last is not None and last.slot >= slot:
            return last
        counter = Counter(policy, account, slot)
        if last is not None:
            counter.follow(last)
            self._give_back_unused(last, last.asked)
        remember(self._counters, key, counter, REMEMBERED)
        return counter

    def _take(self, counter: Counter) -> None:
        """Give all who wait a number in the slot, from 1, with one message."""
        batch, counter.waiting = counter.waiting, []
        now = time.monotonic()
        count = len(batch) + counter.more(now)
        counter.busy, counter.asked, counter.asked_for = True, now, count

        def taken(reply: "asyncio.Future[Message]") -> None:
            try:
                last = _value(reply.result())
            except NoResponders:
                self._begin(anew())
            except Unavailable as error:
                self._given(counter, batch, error)
            else:
                self._taken(counter, batch, range(last - count + 1, last + 1))

        async def anew() -> None:
            """The stream is in memory: a server that was started again has none."""
            try:
                await self.make_stream(counter.policy)
                last = await self._add(counter.subject, count)
            except Unavailable as error:
                self._given(counter, batch, error)
            else:
                self._taken(counter, batch, range(last - count + 1, last + 1))

        try:
            self.bus.ask(counter.subject, b"", BUDGET, _increment(count)).add_done_callback(taken)
        except Unavailable as error:
            self._given(counter, batch, error)

    def _taken(self, counter: Counter, batch: list[Number], numbers: range) -> None:
        """Numbers have come; whether they are good, and what is to be read for them."""
        now = self.now()
        if now >= counter.policy.begin(counter.slot + 1):
            self._give_back(counter.subject, len(numbers))
            self._given(counter, batch, None)
        elif slots := counter.to_read(now):
            self._begin(self._look_around(counter, batch, numbers, slots, now))
        else:
            self._given(counter, batch, numbers)

    async def _look_around(
        self, counter: Counter, batch: list[Number], numbers: range, slots: list[int], now: float
    ) -> None:
        try:
            counter.learn(await self._read(counter.account, counter.policy, slots), now)
        except Unavailable as error:
            self._give_back(counter.subject, len(numbers))
            self._given(counter, batch, error)
        else:
            self._given(counter, batch, numbers)

    def _given(
        self, counter: Counter, batch: list[Number], numbers: range | Unavailable | None
    ) -> None:
        """Hand numbers out. None: they came too late, and so would those for who waits."""
        if numbers is None:
            batch, counter.waiting = [*batch, *counter.waiting], []
        waiting = [number for number in batch if not number.done()]
        if isinstance(numbers, Unavailable):
            for number in waiting:
                number.set_exception(numbers)
        elif numbers is None:
            for number in waiting:
                number.set_result(None)
        else:
            # Who came meanwhile takes of what was fetched ahead.
            waiting += [number for number in counter.waiting if not number.done()]
            for number, value in zip(waiting, numbers, strict=False):
                number.set_result(value)
            counter.waiting = waiting[len(numbers) :]
            if unused := numbers[len(waiting) :]:
                counter.ahead.extend(unused)
                asyncio.get_running_loop().call_later(
                    10 * PAUSE, self._give_back_unused, counter, counter.asked
                )
        if counter.waiting:
            self._take(counter)
        else:
            counter.busy = False

    def _give_back_unused(self, counter: Counter, asked: float) -> None:
        """What was fetched ahead then and nobody came for."""
        if counter.asked == asked and counter.ahead:
            self._give_back(counter.subject, len(counter.ahead))
            counter.ahead.clear()

    def _give_back(self, subject: str, count: int = 1) -> None:
        """In the background: nobody waits for it. Many at once are one message."""
        if subject not in self._owed:
            self._begin(self._pay_back(subject))
        self._owed[subject] = self._owed.get(subject, 0) + count

    async def _pay_back(self, subject: str) -> None:
        await asyncio.sleep(0)
        owed = self._owed.pop(subject)
        try:
            await self._add(subject, -owed)
        except Unavailable:
            log.warning("not given back", subject=subject, requests=owed)

    async def _add(self, subject: str, count: int) -> int:
        return _value(await self.bus.request(subject, b"", BUDGET, _increment(count)))

    async def _read(self, account: str, policy: Policy, slots: Sequence[int]) -> dict[int, int]:
        """What was counted in these slots. The stream has one replica: it has all it answered."""
        if len(slots) == 1:
            subject = f"{policy.stream}.{_subject(policy, account, slots[0])}"
            return {slots[0]: await self._read_one(subject)}
        return await self._read_many(account, policy, slots)

    async def _read_one(self, subject: str) -> int:
        try:
            reply = await self.bus.request(f"$JS.API.DIRECT.GET.{subject}", b"", BUDGET)
        except NoResponders:  # no stream: nothing was counted
            return 0
        return 0 if reply.headers.get("Status") else _value(reply)

    async def _read_many(
        self, account: str, policy: Policy, slots: Sequence[int]
    ) -> dict[int, int]:
        """One question, and a message for each counter that there is (NATS ADR-31)."""
        client = self.bus.client
        if not self.bus.is_there:
            raise Unavailable("the bus is away", retry_after=1)
        inbox = client.new_inbox()
        subjects = [_subject(policy, account, slot) for slot in slots]
        question = orjson.dumps({"multi_last": subjects, "batch": len(subjects)})
        counts = dict.fromkeys(slots, 0)
        try:
            replies = await client.subscribe(inbox)
            try:
                await client.publish(f"$JS.API.DIRECT.GET.{policy.stream}", question, reply=inbox)
                while True:
                    reply = await replies.next_msg(timeout=BUDGET)
                    headers = reply.headers or {}
                    if headers.get("Status"):  # 204: these were all; 404: none; 503: no stream
                        return counts
                    slot = int(headers["Nats-Subject"].rpartition(".")[2])
                    counts[slot] = int(orjson.loads(reply.data)["val"])
            finally:
                await replies.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable(UNCOUNTED, retry_after=1) from error

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


def _subject(policy: Policy, account: str, slot: int) -> str:
    return f"limit.{policy.window}.{policy.name}.{token(account)}.{slot}"


def _increment(count: int) -> dict[str, str]:
    return {"Nats-Incr": f"{count:+d}"}


def _value(reply: Message) -> int:
    """What a counter is at now."""
    answer = orjson.loads(reply.data)
    if "val" not in answer:
        log.error("counting failed", answer=answer)
        raise Unavailable(UNCOUNTED, retry_after=1)
    return int(answer["val"])
