"""Rate limits: admit or refuse a request, and describe the limit in headers.

A refused request is uncounted, and its account is remembered as over the limit
until one more request could be admitted, so a flood sends no messages. Requests
that other replicas are about to uncount also look like too many, so the counters
are read again a moment later.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from common.background import Background, retry
from common.bus import NatsBus
from common.errors import RateLimited, Unavailable
from common.instruments import Labels, MetricFamily
from gateway.counter_store import UNCOUNTED
from gateway.counters import MAX_COUNTERS, Counters
from gateway.memory import remember
from gateway.windows import Count, Policy, Window

# Without the bus each replica counts alone, and checks this often whether the bus is back. Requests
# do not check: a bus that hangs would hold each of them up.
RETRY_S = 0.5
# By then, the counts that refused requests gave back have arrived.
SETTLE_S = 0.2


@dataclass(frozen=True, slots=True)
class Standing:
    """The rest of an account's limit: `remaining` requests now, more in `reset` seconds.

    Attributes:
        slot: the slot that the request was counted in; None: by this replica alone.
    """

    policy: Policy
    remaining: int
    reset: int
    slot: int | None = None


class OverLimit(RateLimited):
    """More requests than a policy allows; the next is admitted in `wait` seconds."""

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
class Admission:
    """A request that is being counted; `standings` waits for the outcome.

    Attributes:
        early: whether the request may do harmless work meanwhile: it is within
            this replica's share of each limit. All replicas together thus start
            no more requests that are refused in the end than a limit admits.
    """

    limits: "Limits"
    account: str
    policies: list[Policy]
    counting: "list[tuple[list[Policy], asyncio.Future[Count]]] | None"
    early: bool

    async def standings(self) -> list[Standing]:
        """Return the standing of each policy.

        Raises:
            OverLimit: one of the limits is exceeded; the request has cost nothing.
            Unavailable: the request cannot be counted, and is costly.
        """
        if self.counting is None:
            return self.limits.count_alone(self.account, self.policies)
        counts: list[tuple[list[Policy], Count]] = []
        failed = False
        for policies, counted in self.counting:
            try:
                counts.append((policies, await counted))
            except Unavailable:
                failed = True
        if failed:
            for policies, count in counts:
                self.limits.counters.give_back(self.account, policies, count.window.slot)
            self.limits.wait_for_bus()
            return self.limits.count_alone(self.account, self.policies)
        return self.limits.decide(self.account, counts)


class Limits:
    """The rate limits of all accounts.

    Args:
        bus: the connection to the counters' server.
        policies: the limits.
        replicas: gateways that share each limit while the bus is unavailable.
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
        self.checking = Background()
        self._alone: dict[tuple[str, str], deque[float]] = {}
        self._waiting_for_bus: asyncio.Task[None] | None = None
        # By policy, decision and decider: the counters, this replica's memory of them, or this
        # replica alone.
        self.decisions: Counter[Labels] = Counter()

    async def start(self) -> None:
        """Create the streams of counters, waiting for the bus as long as necessary."""
        policies = {policy.window: policy for policy in self.policies.values()}.values()

        async def make_streams() -> None:
            for policy in policies:
                await self.counters.store.make_stream(policy)

        await retry(make_streams, Unavailable, waiting_for="the counters' streams", pause_s=RETRY_S)

    async def admit(self, account: str, names: Iterable[str]) -> list[Standing]:
        """Count one request against each policy: all of them, or none.

        Raises:
            OverLimit: one of the limits is exceeded; the request has cost nothing.
            Unavailable: the request cannot be counted, and is costly.
        """
        return await self.begin(account, names).standings()

    def begin(self, account: str, names: Iterable[str]) -> Admission:
        """Start to count a request; raise OverLimit for an account known to be over its limit."""
        names = tuple(names)
        self.refuse_if_over(account, names)
        policies = [self.policies[name] for name in names]
        if not self.bus_available:
            return Admission(self, account, policies, None, early=False)
        groups: dict[tuple[int, str], list[Policy]] = {}
        for policy in policies:
            groups.setdefault((policy.window, policy.counter), []).append(policy)
        counting = [(group, self.counters.count(account, group)) for group in groups.values()]
        early = all(
            self.counters.used(account, policy) <= policy.limit // self.replicas
            for policy in policies
        )
        return Admission(self, account, policies, counting, early)

    async def refuse_if_spent(self, account: str, names: Iterable[str]) -> None:
        """Raise OverLimit if one of the policies has no request left; count nothing."""
        names = tuple(names)
        self.refuse_if_over(account, names)
        for policy in (self.policies[name] for name in names):
            window = None
            if self.bus_available:
                try:
                    window = await self.counters.read(account, policy)
                except Unavailable:
                    self.wait_for_bus()
            now = self.now()
            if window is None:
                self._refuse_alone(account, policy)
            elif wait := _wait(policy, window.slots(policy.place), now):
                self._suspect(account, policy, now + wait)
                raise OverLimit(policy, wait)

    async def read(self, account: str, name: str) -> Standing | None:
        """Return the account's standing, counting nothing; None while the bus is unavailable."""
        policy = self.policies[name]
        try:
            window = await self.counters.read(account, policy) if self.bus_available else None
        except Unavailable:
            self.wait_for_bus()
            return None
        if window is None:
            return None
        left = max(policy.limit - window.totals[policy.place], 0)
        reset = math.ceil(policy.forgotten(window.oldest(policy.place)) - self.now())
        return Standing(policy, left, max(reset, 1))

    def refund(self, account: str, standings: Sequence[Standing]) -> None:
        """Uncount a request that was admitted and turned out to be free."""
        for standing in standings:
            key = standing.policy.name, account
            if standing.slot is not None:
                self.counters.give_back(account, [standing.policy], standing.slot)
                # It may have been the request over the limit.
                self._over.pop(key, None)
            elif alone := self._alone.get(key):
                alone.pop()  # it makes no difference which of the latest it was

    def refuse_if_over(self, account: str, names: Iterable[str]) -> None:
        """Raise OverLimit if the account is known to be over one of the limits; sends nothing."""
        for name in names:
            until = self._over.get((name, account))
            if until is None:
                continue
            wait = until - self.now()
            if wait > 0:
                self.decisions[name, "refused", "memory"] += 1
                raise OverLimit(self.policies[name], wait)
            del self._over[name, account]

    @property
    def bus_available(self) -> bool:
        """Whether the bus is believed to be available."""
        return self._waiting_for_bus is None or self._waiting_for_bus.done()

    def wait_for_bus(self) -> None:
        if self.bus_available:
            self._waiting_for_bus = asyncio.create_task(self.start())

    def decide(self, account: str, counts: list[tuple[list[Policy], Count]]) -> list[Standing]:
        """Admit a request that was counted, or give it back and raise OverLimit."""
        now = self.now()
        standings: list[Standing] = []
        refusal: OverLimit | None = None
        for policies, count in counts:
            window = count.window
            for policy in policies:
                left = policy.limit - count.used(policy.place)
                if left < 0:
                    over = self._refuse(account, policy, window, count.used(policy.place), now)
                    refusal = refusal or over
                else:
                    reset = max(math.ceil(policy.forgotten(window.oldest(policy.place)) - now), 1)
                    standings.append(Standing(policy, left, reset, window.slot))
        if refusal is None:
            for standing in standings:
                self.decisions[standing.policy.name, "admitted", "counters"] += 1
            return standings
        for policies, count in counts:
            self.counters.give_back(account, policies, count.window.slot)
        raise refusal

    def _refuse(
        self, account: str, policy: Policy, window: Window, used: int, now: float
    ) -> OverLimit:
        slots = window.slots(policy.place)
        # Requests counted after this one, and those over the limit, will be given back.
        slots[window.slot] -= max(window.totals[policy.place] - min(used - 1, policy.limit), 0)
        wait = _wait(policy, slots, now)
        self._suspect(account, policy, now + wait)
        self.decisions[policy.name, "refused", "counters"] += 1
        return OverLimit(policy, wait)

    def _suspect(self, account: str, policy: Policy, until: float) -> None:
        """Refuse the account; soon read the counters again, to correct or lift the refusal."""
        key = (policy.name, account)
        if self._over.get(key, -math.inf) <= self.now():
            remember(self._over, key, until, MAX_COUNTERS)
            self.checking.start(self._check_again(account, policy, until))

    async def _check_again(self, account: str, policy: Policy, until: float) -> None:
        await asyncio.sleep(SETTLE_S)
        try:
            slots = (await self.counters.read(account, policy)).slots(policy.place)
        except Unavailable:
            slots = {}
        key, now = (policy.name, account), self.now()
        if self._over.get(key) != until:
            return  # a request was refunded meanwhile
        if wait := _wait(policy, slots, now):
            self._over[key] = now + wait
        else:
            del self._over[key]

    def count_alone(self, account: str, policies: Sequence[Policy]) -> list[Standing]:
        """Count against this replica's share of the limits, without the bus.

        Raises:
            OverLimit: the share is used up.
            Unavailable: one of the policies is costly.
        """
        if any(policy.costly for policy in policies):
            raise Unavailable(UNCOUNTED, retry_after=1)
        shares = [self._refuse_alone(account, policy) for policy in policies]
        now = self.now()
        standings = []
        for policy, (left, times) in zip(policies, shares, strict=True):
            times.append(now)
            self.decisions[policy.name, "admitted", "replica"] += 1
            reset = math.ceil(times[0] + policy.window - now)
            standings.append(Standing(policy, left - 1, reset))
        return standings

    def _refuse_alone(self, account: str, policy: Policy) -> tuple[int, deque[float]]:
        """Return the rest of this replica's share, and its requests' times; or raise OverLimit."""
        key, now = (policy.name, account), self.now()
        times = self._alone.get(key)
        if times is None:
            times = deque()
            remember(self._alone, key, times, MAX_COUNTERS)
        while times and times[0] <= now - policy.window:
            times.popleft()
        left = max(policy.limit // self.replicas, 1) - len(times)
        if left <= 0:
            self.decisions[policy.name, "refused", "replica"] += 1
            raise OverLimit(policy, times[0] + policy.window - now)
        return left, times

    def families(self) -> Iterator[MetricFamily]:
        """Yield the metrics: decisions, latency of counting, and whether counting is degraded."""
        labels = ("policy", "decision", "tier")
        yield MetricFamily(
            "counter", "ratelimit_decisions", "Decisions on requests", labels, self.decisions
        )
        yield MetricFamily(
            "histogram",
            "ratelimit_backend_seconds",
            "Time of the counters' server to count",
            (),
            {(): self.counters.durations},
        )
        alone = {(): float(not self.bus_available)}
        yield MetricFamily(
            "gauge", "ratelimit_degraded", "1 while each replica counts alone", (), alone
        )


def service_standing(error: RateLimited) -> Standing | None:
    """Return the standing that another service's refusal describes, if it describes one."""
    match error.details:
        case {"policy": str(name), "limit": int(limit), "window": int(window)}:
            return Standing(Policy(name, limit, window), 0, error.retry_after or 1)
    return None


def headers(standings: list[Standing]) -> list[tuple[bytes, bytes]]:
    """Build `RateLimit` and `RateLimit-Policy` (IETF draft 10), and the older `X-RateLimit-*`.

    The older ones hold one policy: the one with the fewest requests left.
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
    value = ", ".join(f'"{policy.name}";q={policy.limit};w={policy.window}' for policy in policies)
    return b"ratelimit-policy", value.encode()


def _wait(policy: Policy, counts: dict[int, int], now: float) -> float:
    """Return the seconds until another request is admitted, if none is counted meanwhile."""
    used, wait = sum(counts.values()), 0.0
    for slot in sorted(counts):
        if used < policy.limit:
            break
        used -= counts[slot]
        wait = policy.forgotten(slot) - now
    return max(wait, 0.0)
