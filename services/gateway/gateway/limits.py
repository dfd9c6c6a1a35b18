"""Rate limits, exact across replicas, on JetStream message counters.

Each account has one counter per policy and slot, a twentieth of the window: a
subject whose message the server increments and answers with the new value
(NATS ADR-49), so every request everywhere gets a number of its own. What
counts is this slot and the twenty before it, so no 60 seconds ever admit more
than the limit, wherever they begin. The price is that a request counts for up
to 63 seconds. (One counter of the last minute, weighted by how far it still
reaches, would admit twice the limit after a burst at the minute's end.)

What is refused is taken back and remembered here until it could be admitted:
a flood on a key that is over its limit costs no messages.
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
    counted together by one question, and still get a number each.
    """

    subject: str
    slot: int
    before: dict[int, int]
    busy: bool = False
    waiting: list[asyncio.Future[int]] = field(default_factory=list)
    sum_before: int = 0
    oldest: int = 0

    def __post_init__(self) -> None:
        self.sum_before = sum(self.before.values())
        self.oldest = min((slot for slot, n in self.before.items() if n), default=self.slot)


Question = tuple[Counter, asyncio.Future[int]]


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
        number: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        counter.waiting.append(number)
        if not counter.busy:
            counter.busy = True
            self._begin(self._take_together(counter))
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
        try:
            return await question[1]
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
            counter = Counter(_subject(account, policy, slot), slot, before)
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
        if not (reply.headers or {}).get("Status"):
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

    async def _take_together(self, counter: Counter) -> None:
        """Give all who wait for one a number in the slot, from 1, with one message."""
        while counter.waiting:
            batch, counter.waiting = counter.waiting, []
            try:
                last = await self._add(counter.subject, len(batch))
            except Exception as error:  # noqa: BLE001  (whatever it is, each hears of it)
                for future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for number, future in enumerate(batch, last - len(batch) + 1):
                if not future.done():
                    future.set_result(number)
        counter.busy = False

    async def _add(self, subject: str, count: int) -> int:
        increment = {"Nats-Incr": f"{count:+d}"}
        try:
            reply = await self.bus.request(subject, b"", BUDGET, increment)
        except NoResponders:
            # The stream is in memory: a server that was started again has none.
            await self._make_stream()
            reply = await self.bus.request(subject, b"", BUDGET, increment)
        answer = orjson.loads(reply.data)
        if "val" not in answer:
            log.error("counting failed", answer=answer)
            raise Unavailable("requests cannot be counted at present", retry_after=1)
        return int(answer["val"])

    def _refund(self, subject: str) -> None:
        """Take one back, in the background: nobody waits for it. Many at once are one message."""
        if subject not in self._owed:
            self._begin(self._pay_back(subject))
        self._owed[subject] = self._owed.get(subject, 0) + 1

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
