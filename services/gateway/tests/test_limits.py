"""The limiter on a real bus, with a clock that the tests move."""

import asyncio
import itertools
import random
import time

import pytest

from common import bus
from common.bus import NatsBus
from common.errors import RateLimited, Unavailable
from gateway.limits import Limits, OverLimit, Policy, headers
from local.stack import Stack

numbers = itertools.count()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that is busy with other tests is not a bus that is away."""
    monkeypatch.setattr("gateway.limits.BUDGET", 60.0)


class Clock:
    def __init__(self) -> None:
        # The start of a window; the counters of other tests are of other accounts.
        self.now = 60.0 * (int(time.time()) // 60)

    def __call__(self) -> float:
        return self.now


def account() -> str:
    return f"acc_{next(numbers)}_{random.getrandbits(40)}"


async def limiter(nats: NatsBus, limit: int, clock: Clock, **options: object) -> Limits:
    policies = [Policy("api", limit), Policy("costly", limit, costly=True)]
    made = Limits(nats, policies, now=clock, **options)  # type: ignore[arg-type]
    await made.start()
    return made


async def admitted(limits: Limits, who: str, times: int) -> int:
    outcomes = await asyncio.gather(
        *(limits.admit(who, ["api"]) for _ in range(times)), return_exceptions=True
    )
    assert all(isinstance(o, list | RateLimited) for o in outcomes), outcomes
    await _paid_back(limits)
    return sum(isinstance(outcome, list) for outcome in outcomes)


async def _paid_back(limits: Limits) -> None:
    while limits._tasks:
        await asyncio.wait(limits._tasks)


async def test_any_number_at_once_admits_exactly_the_limit(
    nats: NatsBus, servers: Stack, patience: None
) -> None:
    clock, who = Clock(), account()
    async with (
        bus.connect(servers.nats.url("gateway"), "gateway") as second,
        bus.connect(servers.nats.url("gateway"), "gateway") as third,
    ):
        replicas = [await limiter(one, 100, clock) for one in (nats, second, third)]
        counts = await asyncio.gather(*(admitted(replica, who, 170) for replica in replicas))
    assert sum(counts) == 100


async def test_accounts_do_not_share_a_limit(nats: NatsBus) -> None:
    limits = await limiter(nats, 5, Clock())
    assert [await admitted(limits, account(), 9) for _ in range(3)] == [5, 5, 5]


@pytest.mark.parametrize("pace", ["burst at the edge of a window", "flood", "random"])
async def test_the_worst_sixty_seconds_admit_at_most_the_limit(nats: NatsBus, pace: str) -> None:
    clock, who = Clock(), account()
    limits = await limiter(nats, 100, clock)
    start = clock.now
    times: list[float] = []
    randomly = random.Random(7)
    if pace == "flood":
        arrivals = [second + tenth / 5 for second in range(240) for tenth in range(5)]
    elif pace == "random":
        arrivals = sorted(randomly.uniform(0, 240) for _ in range(900))
    else:
        arrivals = [59.9 + n * 0.0005 for n in range(110)] + [60.1 + n * 0.05 for n in range(600)]
    for arrival in arrivals:
        clock.now = start + arrival
        try:
            await limits.admit(who, ["api"])
        except RateLimited:
            await _paid_back(limits)
        else:
            times.append(arrival)
    worst = max(sum(begin <= t < begin + 60 for t in times) for begin in times)
    assert worst <= 100
    assert len(times) >= 100


async def test_what_is_refused_costs_nothing(nats: NatsBus) -> None:
    clock, who = Clock(), account()
    limits = await limiter(nats, 10, clock)
    assert await admitted(limits, who, 1000) == 10
    clock.now += 63
    assert await admitted(limits, who, 1000) == 10


async def test_who_is_over_the_limit_costs_no_message(nats: NatsBus) -> None:
    who = account()
    limits = await limiter(nats, 10, Clock())
    await admitted(limits, who, 20)
    sent = nats.client.stats["out_msgs"]
    assert await admitted(limits, who, 5000) == 0
    assert nats.client.stats["out_msgs"] == sent


async def test_the_wait_that_is_told_is_long_enough_and_not_longer(nats: NatsBus) -> None:
    clock, who = Clock(), account()
    limits = await limiter(nats, 10, clock)
    clock.now += 20
    await admitted(limits, who, 10)
    with pytest.raises(OverLimit) as caught:
        await limits.admit(who, ["api"])
    assert caught.value.retry_after is not None
    clock.now += caught.value.retry_after - 2
    assert await admitted(limits, who, 1) == 0
    clock.now += 2
    assert await admitted(limits, who, 1) == 1


async def test_a_request_that_one_policy_refuses_counts_for_none(nats: NatsBus) -> None:
    who = account()
    limits = Limits(nats, [Policy("wide", 5), Policy("narrow", 1)], now=Clock())
    await limits.start()
    await limits.admit(who, ["wide", "narrow"])
    for _ in range(3):
        with pytest.raises(RateLimited):
            await limits.admit(who, ["wide", "narrow"])
    await _paid_back(limits)
    for _ in range(4):
        await limits.admit(who, ["wide"])
    with pytest.raises(RateLimited):
        await limits.admit(who, ["wide"])


async def test_what_is_taken_back_may_be_used_again(nats: NatsBus) -> None:
    clock, who = Clock(), account()
    limits = await limiter(nats, 1, clock)
    for _ in range(5):
        [standing] = await limits.admit(who, ["api"])
        clock.now += 0.01
        limits.refund(who, standing)
        await _paid_back(limits)
    clock.now += 60  # a refund belongs to the window in which it was counted
    assert await admitted(limits, who, 5) == 1


async def test_who_asks_without_pause_and_may_ask_a_lot_does_not_wait_for_each_number(
    nats: NatsBus, servers: Stack, patience: None
) -> None:
    clock, who = Clock(), account()
    async with bus.connect(servers.nats.url("gateway"), "gateway") as second:
        replicas = [await limiter(one, 5000, clock) for one in (nats, second)]
        sent = nats.client.stats["out_msgs"]
        for _ in range(1000):
            await replicas[0].admit(who, ["api"])
        assert nats.client.stats["out_msgs"] - sent < 500
        counts = [1000, await admitted(replicas[1], who, 3990)]
        # What nobody came for goes back.
        for replica in replicas:
            while any(counter.ahead for counter in replica._counters.values()):
                await asyncio.sleep(0.05)
            await _paid_back(replica)
        counts.append(await admitted(replicas[0], who, 100))
    assert sum(counts) == 5000


async def test_a_small_limit_is_fetched_one_by_one(nats: NatsBus) -> None:
    limits, who = await limiter(nats, 999, Clock()), account()
    sent = nats.client.stats["out_msgs"]
    for _ in range(100):
        await limits.admit(who, ["api"])
    assert nats.client.stats["out_msgs"] - sent >= 100


async def test_a_bus_that_lost_its_memory_counts_on(nats: NatsBus) -> None:
    who = account()
    limits = await limiter(nats, 5, Clock())
    await nats.client.jetstream().delete_stream("LIMITS")
    assert await admitted(limits, who, 9) == 5


async def test_without_the_bus_reads_get_a_share_and_what_costs_money_nothing(
    servers: Stack,
) -> None:
    async with bus.connect(servers.nats.url("gateway"), "gateway") as connection:
        limits = await limiter(connection, 100, Clock(), replicas=2)
        servers.stop("nats")
        try:
            who = account()
            assert await admitted(limits, who, 80) == 50
            with pytest.raises(Unavailable):
                await limits.admit(who, ["costly"])
        finally:
            servers.processes["nats"].start()
            await asyncio.to_thread(servers.wait_until_ready, "nats")
        while not connection.client.is_connected or time.monotonic() < limits._away_until:
            await asyncio.sleep(0.05)
        assert await admitted(limits, account(), 120) == 100


async def test_the_headers_say_the_same_twice(nats: NatsBus) -> None:
    limits = await limiter(nats, 10, Clock())
    told = dict(headers(await limits.admit(account(), ["api", "costly"])))
    assert told[b"ratelimit-policy"] == b'"api";q=10;w=60, "costly";q=10;w=60'
    assert told[b"ratelimit"] == b'"api";r=9;t=63, "costly";r=9;t=63'
    assert told[b"x-ratelimit-remaining"] == b"9"
    assert told[b"x-ratelimit-limit"] == b"10"
