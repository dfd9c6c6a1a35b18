"""Rate limits, exact across replicas, on JetStream message counters.

Each account has one counter per policy and slot, a twentieth of the window: a
subject whose message the server increments and answers with the new value
(NATS ADR-49), so every request everywhere gets a number of its own. What
counts is this slot and the twenty before it, so no 60 seconds ever admit more
than the limit, wherever they begin. The price is that a request counts for up
to 63 seconds. (One counter of the last minute, weighted by how far it still
reaches, would admit twice the limit after a burst at the minute's end.)

What is refused is taken back and remembered here until it could be admitted:
a flood on a key that is over its limit costs no messages. Who asks without
pause and has a large limit is given numbers ahead, so that not every request
waits for the bus; those that are not used are taken back.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import nats.errors
import nats.js.errors
import orjson
import structlog
from nats.js.api import DiscardPolicy, StorageType, StreamConfig

from common.bus import NatsBus, NoResponders, token
from common.connection import Message
from common.errors import RateLimited, Unavailable

log = structlog.get_logger()

STREAM = "LIMITS"
# Counting takes a quarter of a millisecond; a bus that needs longer than this, on however busy a
# machine, is away. In seconds.
BUDGET = 3.0
# Of which the window is made.
SLOTS = 20
# After it was found to be away, each replica counts alone for so long before it asks again.
AWAY = 0.5
# Numbers fetched ahead, at most, and which part of a limit: none of one below 1,000.
AHEAD, AHEAD_PART = 64, 1000
# Who is back so soon, in seconds, asks without pause; what is left goes back after ten times that.
PAUSE = 0.05
# The oldest counters go beyond this; they last two windows, so that is hundreds of thousands.
MOST_BYTES = 64 * 1024 * 1024
# Counters remembered here at once, and accounts known to be over; the oldest go first.
REMEMBERED = 20_000

Key = TypeVar("Key")
Value = TypeVar("Value")


@dataclass(frozen=True)
class Policy:
    """`limit` requests in any `window` seconds; `costly` ones are refused when nobody can count."""

    name: str
    limit: int
    window: int = 60
    costly: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an account stands: `remaining` requests now, more of them in `reset` seconds."""

    policy: Policy
    remaining: int
    reset: int
    # In which it was counted, as its number since 1970; None: by this replica alone.
    slot: int | None = None


class OverLimit(RateLimited):
    """More than a policy allows; admitted again in `wait` seconds."""

    def __init__(self, policy: Policy, wait: float) -> None:
        seconds = max(math.ceil(wait), 1)
        super().__init__(
            f"more than {policy.limit} requests in {policy.window} s; try again in {seconds} s",
            retry_after=seconds,
            limit=policy.limit,
            window=policy.window,
            policy=policy.name,
        )
        self.standing = Standing(policy, 0, seconds)


@dataclass(slots=True)
class Counter:
    """One account's requests in one slot, and what it has `before` by slot.

    Requests that come at the same time, or while the server is being asked, are
    counted together by one question, and still get a number each. `ahead`:
    numbers that are this replica's and wait for requests; `asked`: when the
    server was, monotonic, and how many numbers it was `asked_for`.
    """

    policy: Policy
    subject: str
    slot: int
    before: dict[int, int]
    busy: bool = False
    waiting: list["asyncio.Future[int]"] = field(default_factory=list)
    ahead: deque[int] = field(default_factory=deque)
    asked: float = 0.0
    asked_for: int = 0
    sum_before: int = 0
    oldest: int = 0

    def __post_init__(self) -> None:
        self.sum_before = sum(self.before.values())
        self.oldest = min((slot for slot, n in self.before.items() if n), default=self.slot)

    def more(self, now: float) -> int:
        """How many numbers to fetch ahead: twice as many each time that they were used up soon."""
        if now - self.asked > PAUSE:
            return 0
        return min(2 * self.asked_for, AHEAD, self.policy.limit // AHEAD_PART)


# The counter, and a request's number in it or what will have it.
Question = tuple[Counter, "int | asyncio.Future[int]"]


class Limits:
    """Who may still ask.

    Args:
        bus: where the counters are.
        policies: what may be asked for, each by its name.
        replicas: of the gateway, which share the limit when nobody can count for them all.
        now: seconds since 1970; replicas' clocks may differ by less than a second.
    """

    def __init__(
        self,
        bus: NatsBus,
        policies: Iterable[Policy],
        *,
        replicas: int = 1,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.bus = bus
        self.policies = {policy.name: policy for policy in policies}
        self.replicas = replicas
        self.now = now
        self._counters: dict[tuple[str, str], Counter] = {}
        self._over: dict[tuple[str, str], float] = {}
        self._alone: dict[tuple[str, str], deque[float]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._owed: dict[str, int] = {}
        self._away_until = 0.0

    async def start(self) -> None:
        """Make the stream of counters, or find it; waits for the bus as long as it takes."""
        while True:
            try:
                await self._make_stream()
            except Unavailable as error:
                log.warning("waiting for the stream of limits", error=error.message)
                await asyncio.sleep(0.5)
            else:
                return

    async def _make_stream(self) -> None:
        longest = max(policy.window for policy in self.policies.values())
        config = StreamConfig(
            name=STREAM,
            subjects=["limit.>"],
            storage=StorageType.MEMORY,
            discard=DiscardPolicy.OLD,
            max_msgs_per_subject=1,
            max_age=2 * longest + 60,
            max_bytes=MOST_BYTES,
            allow_direct=True,
            allow_msg_counter=True,
        )
        stream = self.bus.client.jetstream(timeout=BUDGET)
        try:
            try:
                await stream.add_stream(config)
            except nats.js.errors.BadRequestError:  # it is there, made by another version
                await stream.update_stream(config)
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("requests cannot be counted at present", retry_after=1) from error

    async def admit(self, account: str, names: Iterable[str]) -> list[Standing]:
        """Count one request against each policy, all or none.

        Raises:
            RateLimited: one of them is over; the request has cost nothing.
            Unavailable: nobody can count, and the request would cost money.
        """
        names = tuple(names)
        self.refuse_if_over(account, names)
        now = self.now()
        # All of them are asked before any answer is waited for.
        asked = [await self._ask(account, self.policies[name], now) for name in names]
        standings: list[Standing] = []
        refusal: OverLimit | Unavailable | None = None
        for name, question in zip(names, asked, strict=True):
            try:
                standings.append(await self._answer(account, self.policies[name], question, now))
            except (OverLimit, Unavailable) as error:
                refusal = refusal or error
        if refusal is not None:
            for standing in standings:
                self.refund(account, standing)
            raise refusal
        return standings

    def refund(self, account: str, standing: Standing) -> None:
        """Take back what was admitted: it has turned out to be free."""
        if standing.slot is not None:
            self._refund(_subject(account, standing.policy, standing.slot))

    def refuse_if_over(self, account: str, names: Iterable[str]) -> None:
        """Raises RateLimited for who is known to be over one of them; asks nobody."""
        for name in names:
            until = self._over.get((name, account))
            if until is None:
                continue
            wait = until - self.now()
            if wait > 0:
                raise OverLimit(self.policies[name], wait)
            del self._over[name, account]

    async def _ask(self, account: str, policy: Policy, now: float) -> Question | None:
        """None when nobody can be asked."""
        if time.monotonic() < self._away_until:
            return None
        slot = int(now * SLOTS / policy.window)
        counter = self._counters.get((policy.name, account))
        if counter is None or counter.slot < slot:
            try:
                counter = await self._counter(account, policy, slot)
            except Unavailable:
                self._away_until = time.monotonic() + AWAY
                return None
        if counter.ahead:
            return counter, counter.ahead.popleft()
        number: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        counter.waiting.append(number)
        if not counter.busy:
            self._take(counter)
        return counter, number

    async def _answer(
        self, account: str, policy: Policy, question: Question | None, now: float
    ) -> Standing:
        """Raises OverLimit, or Unavailable for what is costly when nobody can be asked."""
        number = await self._number(question)
        if number is None or question is None:
            if policy.costly:
                raise Unavailable("requests cannot be counted at present", retry_after=1)
            return self._count_alone(account, policy, now)
        counter = question[0]
        used = number + counter.sum_before
        if used > policy.limit:
            self._refund(counter.subject)
            counted = min(number - 1, policy.limit - counter.sum_before)
            wait = _wait(policy, {**counter.before, counter.slot: counted}, now)
            _remember(self._over, (policy.name, account), now + wait)
            raise OverLimit(policy, wait)
        reset = math.ceil((counter.oldest + SLOTS + 1) * policy.window / SLOTS - now)
        return Standing(policy, policy.limit - used, max(reset, 1), counter.slot)

    async def _number(self, question: Question | None) -> int | None:
        """A request's own in its slot, from 1; None when nobody can count."""
        if question is None:
            return None
        number = question[1]
        if isinstance(number, int):
            return number
        try:
            return await number
        except Unavailable:
            self._away_until = time.monotonic() + AWAY
            return None

    async def _counter(self, account: str, policy: Policy, slot: int) -> Counter:
        key = (policy.name, account)
        counter = self._counters.get(key)
        if counter is not None and counter.slot >= slot:
            return counter
        before = await self._read(account, policy, slot, counter)
        # Another request may have made it in the meantime.
        counter = self._counters.get(key)
        if counter is None or counter.slot < slot:
            counter = Counter(policy, _subject(account, policy, slot), slot, before)
            _remember(self._counters, key, counter)
        return counter

    async def _read(
        self, account: str, policy: Policy, slot: int, last: Counter | None
    ) -> dict[int, int]:
        """What was counted in each slot that reaches into the window and is over."""
        if last is None or last.slot != slot - 1:
            return await self._read_all(account, policy, slot)
        before = {s: count for s, count in last.before.items() if s >= slot - SLOTS}
        try:
            reply = await self.bus.request(
                f"$JS.API.DIRECT.GET.{STREAM}.{last.subject}", b"", BUDGET
            )
        except NoResponders:
            return {}  # no stream: nothing was counted
        if not reply.headers.get("Status"):
            before[last.slot] = int(orjson.loads(reply.data)["val"])
        return before

    async def _read_all(self, account: str, policy: Policy, slot: int) -> dict[int, int]:
        """One question, and a message for each counter that there is (NATS ADR-31)."""
        client = self.bus.client
        if not client.is_connected:
            raise Unavailable("the bus is away", retry_after=1)
        inbox = client.new_inbox()
        subjects = [_subject(account, policy, s) for s in range(slot - SLOTS, slot)]
        question = orjson.dumps({"multi_last": subjects, "batch": SLOTS})
        before: dict[int, int] = {}
        try:
            replies = await client.subscribe(inbox)
            try:
                await client.publish(f"$JS.API.DIRECT.GET.{STREAM}", question, reply=inbox)
                while True:
                    reply = await replies.next_msg(timeout=BUDGET)
                    headers = reply.headers or {}
                    if headers.get("Status"):  # 204: these were all; 404: none; 503: no stream
                        return before
                    before[int(headers["Nats-Subject"].rpartition(".")[2])] = int(
                        orjson.loads(reply.data)["val"]
                    )
            finally:
                await replies.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("requests cannot be counted at present", retry_after=1) from error

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
                self._given(counter, batch, range(last - count + 1, last + 1))

        async def anew() -> None:
            """The stream is in memory: a server that was started again has none."""
            try:
                await self._make_stream()
                last = await self._add(counter.subject, count)
            except Unavailable as error:
                self._given(counter, batch, error)
            else:
                self._given(counter, batch, range(last - count + 1, last + 1))

        try:
            self.bus.ask(counter.subject, b"", BUDGET, _increment(count)).add_done_callback(taken)
        except Unavailable as error:
            self._given(counter, batch, error)

    def _given(
        self, counter: Counter, batch: list["asyncio.Future[int]"], numbers: range | Unavailable
    ) -> None:
        if isinstance(numbers, Unavailable):
            for future in batch:
                if not future.done():
                    future.set_exception(numbers)
        else:
            for future, number in zip(batch, numbers, strict=False):
                if not future.done():
                    future.set_result(number)
            if ahead := numbers[len(batch) :]:
                counter.ahead.extend(ahead)
                asyncio.get_running_loop().call_later(
                    10 * PAUSE, self._give_back, counter, counter.asked
                )
        if counter.waiting:
            self._take(counter)
        else:
            counter.busy = False

    def _give_back(self, counter: Counter, asked: float) -> None:
        """What was fetched ahead then and nobody came for."""
        if counter.asked == asked and counter.ahead:
            self._refund(counter.subject, len(counter.ahead))
            counter.ahead.clear()

    async def _add(self, subject: str, count: int) -> int:
        return _value(await self.bus.request(subject, b"", BUDGET, _increment(count)))

    def _refund(self, subject: str, count: int = 1) -> None:
        """Take some back, in the background: nobody waits for it. Many at once are one message."""
        if subject not in self._owed:
            self._begin(self._pay_back(subject))
        self._owed[subject] = self._owed.get(subject, 0) + count

    async def _pay_back(self, subject: str) -> None:
        await asyncio.sleep(0)
        owed = self._owed.pop(subject)
        try:
            await self._add(subject, -owed)
        except Unavailable:
            log.warning("not refunded", subject=subject, requests=owed)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _count_alone(self, account: str, policy: Policy, now: float) -> Standing:
        """Without the bus, each replica admits its share of the limit."""
        key = (policy.name, account)
        share = max(policy.limit // self.replicas, 1)
        times = self._alone.get(key)
        if times is None:
            times = deque()
            _remember(self._alone, key, times)
        while times and times[0] <= now - policy.window:
            times.popleft()
        if len(times) >= share:
            raise OverLimit(policy, times[0] + policy.window - now)
        times.append(now)
        return Standing(policy, share - len(times), math.ceil(times[0] + policy.window - now))


def _subject(account: str, policy: Policy, slot: int) -> str:
    return f"limit.{policy.name}.{token(account)}.{slot}"


def _increment(count: int) -> dict[str, str]:
    return {"Nats-Incr": f"{count:+d}"}


def _value(reply: Message) -> int:
    """What a counter is at now."""
    answer = orjson.loads(reply.data)
    if "val" not in answer:
        log.error("counting failed", answer=answer)
        raise Unavailable("requests cannot be counted at present", retry_after=1)
    return int(answer["val"])


def headers(standings: list[Standing]) -> list[tuple[bytes, bytes]]:
    """`RateLimit` and `RateLimit-Policy` (IETF draft 10), and the older `X-RateLimit-*`.

    The older ones can say one policy only: the one that will be over first.
    """
    policy = ", ".join(
        f'"{s.policy.name}";q={s.policy.limit};w={s.policy.window}' for s in standings
    )
    limit = ", ".join(f'"{s.policy.name}";r={s.remaining};t={s.reset}' for s in standings)
    tightest = min(standings, key=lambda standing: standing.remaining)
    return [
        (b"ratelimit-policy", policy.encode()),
        (b"ratelimit", limit.encode()),
        (b"x-ratelimit-limit", str(tightest.policy.limit).encode()),
        (b"x-ratelimit-remaining", str(tightest.remaining).encode()),
        (b"x-ratelimit-reset", str(tightest.reset).encode()),
    ]


def _wait(policy: Policy, counts: dict[int, int], now: float) -> float:
    """Seconds until one more would be admitted, if nothing else is counted until then."""
    used = sum(counts.values())
    for slot in sorted(counts):
        used -= counts[slot]
        if used < policy.limit:
            return max((slot + SLOTS + 1) * policy.window / SLOTS - now, 0.0)
    return policy.window  # not reached: without any there is room


def _remember(memory: dict[Key, Value], key: Key, value: Value) -> None:
    memory[key] = value
    if len(memory) > REMEMBERED:
        del memory[next(iter(memory))]
