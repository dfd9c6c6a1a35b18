"""Rate limits: who may still ask, and what is told of it.

What is refused is given back, and who is over a limit is remembered here until
one more could be admitted: a flood on a key that is over costs no messages.
Numbers that other requests are about to give back look like too many as well,
so it is looked at again after a moment.
"""

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from common.bus import NatsBus
from common.errors import RateLimited, Unavailable
from gateway.counters import REMEMBERED, UNCOUNTED, Counter, Counters, Policy, Question
from gateway.memory import remember

log = structlog.get_logger()

# Where the bus is away each replica counts alone, and looks for it so often, in seconds. Requests
# do not: a bus that hangs would hold up each of them.
AWAY = 0.5
# What requests give back has arrived by then, in seconds.
MOMENT = 0.2


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


class Limits:
    """Who may still ask.

    Args:
        bus: where the counters are.
        policies: what may be asked for, each by its name.
        replicas: of the gateway, which share the limit when nobody can count for them all.
        now: seconds since 1970; replicas' clocks differ by less than half a second.
    """

    def __init__(
        self,
        bus: NatsBus,
        policies: Iterable[Policy],
        *,
        replicas: int = 1,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.policies = {policy.name: policy for policy in policies}
        self.replicas = replicas
        self.now = now
        self.counters = Counters(bus, now)
        self._over: dict[tuple[str, str], float] = {}
        self._looking: set[asyncio.Task[None]] = set()
        self._alone: dict[tuple[str, str], deque[float]] = {}
        self._waiting_for_bus: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Make the streams of counters, or find them; waits for the bus as long as it takes."""
        for attempt in itertools.count():
            try:
                for policy in {policy.window: policy for policy in self.policies.values()}.values():
                    await self.counters.make_stream(policy)
            except Unavailable as error:
                if attempt == 0:
                    log.warning("waiting for the streams of limits", error=error.message)
                await asyncio.sleep(AWAY)
            else:
                return

    async def admit(self, account: str, names: Iterable[str]) -> list[Standing]:
        """Count one request against each policy, all or none.

        Raises:
            RateLimited: one of them is over; the request has cost nothing.
            Unavailable: nobody can count, and the request would cost money.
        """
        names = tuple(names)
        self.refuse_if_over(account, names)
        # All of them are asked before any answer is waited for.
        asked = [self._ask(account, self.policies[name]) for name in names]
        standings: list[Standing] = []
        refusal: OverLimit | Unavailable | None = None
        for name, question in zip(names, asked, strict=True):
            try:
                standings.append(await self._answer(account, self.policies[name], question))
            except (OverLimit, Unavailable) as error:
                refusal = refusal or error
        if refusal is not None:
            for standing in standings:
                self.refund(account, standing)
            raise refusal
        return standings

    async def look(self, account: str, names: Iterable[str]) -> None:
        """Raises RateLimited for who has no request left of one of them; counts nothing."""
        names = tuple(names)
        self.refuse_if_over(account, names)
        for policy in (self.policies[name] for name in names):
            counts = None
            if self._asks():
                try:
                    counts = await self.counters.read(account, policy)
                except Unavailable:
                    self._wait_for_bus()
            now = self.now()
            if counts is None:
                self._refuse_alone(account, policy)
            elif wait := _wait(policy, counts, now):
                self._suspect(account, policy, now + wait)
                raise OverLimit(policy, wait)

    def refund(self, account: str, standing: Standing) -> None:
        """Take back what was admitted: it has turned out to be free."""
        key = standing.policy.name, account
        if standing.slot is not None:
            self.counters.give_back(account, standing.policy, standing.slot)
            # It may have been what was too many.
            self._over.pop(key, None)
        elif alone := self._alone.get(key):
            alone.pop()  # which of those just now it was makes no difference

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

    def _ask(self, account: str, policy: Policy) -> Question | None:
        """None when nobody can be asked."""
        return self.counters.ask(account, policy) if self._asks() else None

    def _asks(self) -> bool:
        return self._waiting_for_bus is None or self._waiting_for_bus.done()

    def _wait_for_bus(self) -> None:
        if self._asks():
            self._waiting_for_bus = asyncio.create_task(self.start())

    async def _answer(self, account: str, policy: Policy, question: Question | None) -> Standing:
        """Raises OverLimit, or Unavailable for what is costly when nobody can be asked."""
        if question is not None:
            try:
                return self._decide(*await self.counters.answer(question))
            except Unavailable:
                self._wait_for_bus()
        if policy.costly:
            raise Unavailable(UNCOUNTED, retry_after=1)
        return self._count_alone(account, policy)

    def _decide(self, counter: Counter, number: int) -> Standing:
        """Raises OverLimit, for which the number is given back."""
        policy, now = counter.policy, self.now()
        left = policy.limit - counter.sum_of_others - number
        if left < 0:
            self.counters.give_back(counter.account, policy, counter.slot)
            own = min(number - 1, number + left)
            wait = _wait(policy, {**(counter.others or {}), counter.slot: own}, now)
            self._suspect(counter.account, policy, now + wait)
            raise OverLimit(policy, wait)
        reset = max(math.ceil(policy.forgotten(counter.oldest) - now), 1)
        return Standing(policy, left, reset, counter.slot)

    def _suspect(self, account: str, policy: Policy, until: float) -> None:
        """Refuse the account for a moment, and then as long as it takes, or no more."""
        key = (policy.name, account)
        if self._over.get(key, -math.inf) <= self.now():
            remember(self._over, key, until, REMEMBERED)
            task = asyncio.create_task(self._look_again(account, policy, until))
            self._looking.add(task)
            task.add_done_callback(self._looking.discard)

    async def _look_again(self, account: str, policy: Policy, until: float) -> None:
        await asyncio.sleep(MOMENT)
        try:
            counts = await self.counters.read(account, policy)
        except Unavailable:
            counts = {}
        key, now = (policy.name, account), self.now()
        if self._over.get(key) != until:
            return  # something was taken back meanwhile
        if wait := _wait(policy, counts, now):
            self._over[key] = now + wait
        else:
            del self._over[key]

    def _count_alone(self, account: str, policy: Policy) -> Standing:
        """Without the bus, each replica admits its share of the limit."""
        left, times = self._refuse_alone(account, policy)
        now = self.now()
        times.append(now)
        return Standing(policy, left - 1, math.ceil(times[0] + policy.window - now))

    def _refuse_alone(self, account: str, policy: Policy) -> tuple[int, deque[float]]:
        """How many are left of the share, and when those were that count; raises OverLimit."""
        key, now = (policy.name, account), self.now()
        times = self._alone.get(key)
        if times is None:
            times = deque()
            remember(self._alone, key, times, REMEMBERED)
        while times and times[0] <= now - policy.window:
            times.popleft()
        left = max(policy.limit // self.replicas, 1) - len(times)
        if left <= 0:
            raise OverLimit(policy, times[0] + policy.window - now)
        return left, times


def headers(standings: list[Standing]) -> list[tuple[bytes, bytes]]:
    """`RateLimit` and `RateLimit-Policy` (IETF draft 10), and the older `X-RateLimit-*`.

    The older ones can say one policy only: the one that will be over first.
    """
    limit = ", ".join(f'"{s.policy.name}";r={s.remaining};t={s.reset}' for s in standings)
    tightest = min(standings, key=lambda standing: standing.remaining)
    return [
        policy_header([standing.policy for standing in standings]),
        (b"ratelimit", limit.encode()),
        (b"x-ratelimit-limit", str(tightest.policy.limit).encode()),
        (b"x-ratelimit-remaining", str(tightest.remaining).encode()),
        (b"x-ratelimit-reset", str(tightest.reset).encode()),
    ]


def policy_header(policies: list[Policy]) -> tuple[bytes, bytes]:
    told = ", ".join(f'"{policy.name}";q={policy.limit};w={policy.window}' for policy in policies)
    return b"ratelimit-policy", told.encode()


def _wait(policy: Policy, counts: dict[int, int], now: float) -> float:
    """Seconds until one more would be admitted, if nothing else is counted until then."""
    used, wait = sum(counts.values()), 0.0
    for slot in sorted(counts):
        if used < policy.limit:
            break
        used -= counts[slot]
        wait = policy.forgotten(slot) - now
    return max(wait, 0.0)
