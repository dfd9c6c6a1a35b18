"""The limiter on a real bus, with a clock that the tests move."""

import asyncio
import contextlib
import itertools
import os
import random
import signal
import time
from functools import partial

import pytest

from common import bus
from common.bus import NatsBus
from common.errors import RateLimited, Unavailable
from gateway.limits import Limits, OverLimit
from gateway.windows import EPOCH_SLOTS, Policy
from local.stack import Stack

from .conftest import suspend

numbers = itertools.count()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer for counts: a busy test machine is not an unavailable bus."""
    monkeypatch.setattr("gateway.counter_store.COUNT_TIMEOUT_S", 60.0)


class Clock:
    def __init__(self) -> None:
        # In the middle of the first slot of a minute; other tests' counters are other accounts'.
        self.now = 60.0 * (int(time.time()) // 60) + 1.5

    def __call__(self) -> float:
        return self.now


def account() -> str:
    return f"acc_{next(numbers)}_{random.getrandbits(40)}"


async def limiter(
    nats: NatsBus, limit: int, clock: Clock, behind: float = 0.0, replicas: int = 1
) -> Limits:
    policies = [Policy("api", limit), Policy("costly", limit, costly=True)]
    limits = Limits(nats, policies, now=lambda: clock() - behind, replicas=replicas)
    await limits.start()
    return limits


async def admitted(limits: Limits, account_id: str, times: int) -> int:
    outcomes = await asyncio.gather(
        *(limits.admit(account_id, ["api"]) for _ in range(times)), return_exceptions=True
    )
    assert all(isinstance(o, list | RateLimited) for o in outcomes), outcomes
    await _settled(limits)
    return sum(isinstance(outcome, list) for outcome in outcomes)


async def _settled(limits: Limits) -> None:
    """Wait until no message is under way and accounts over their limit are known."""
    while tasks := [*limits.counters.store.tasks, *limits.checking]:
        await asyncio.wait(tasks)


async def test_of_any_number_of_concurrent_requests_exactly_the_limit_is_admitted(
    nats: NatsBus, servers: Stack, patience: None
) -> None:
    clock, account_id = Clock(), account()
    async with (
        bus.connect(servers.nats.url("gateway"), "gateway") as second,
        bus.connect(servers.nats.url("gateway"), "gateway") as third,
    ):
        replicas = [
            await limiter(bus_of_replica, 100, clock) for bus_of_replica in (nats, second, third)
        ]
        counts = await asyncio.gather(*(admitted(replica, account_id, 170) for replica in replicas))
    assert sum(counts) == 100


async def test_accounts_do_not_share_a_limit(nats: NatsBus) -> None:
    limits = await limiter(nats, 5, Clock())
    assert [await admitted(limits, account(), 9) for _ in range(3)] == [5, 5, 5]


@pytest.mark.parametrize("pace", ["burst at the edge of a window", "flood", "random"])
async def test_replicas_with_clock_skew_admit_at_most_the_limit_in_any_sixty_seconds(
    nats: NatsBus, pace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.limits.SETTLE_S", 0.0)
    clock, account_id = Clock(), account()
    replicas = [await limiter(nats, 100, clock, behind) for behind in (0.0, 0.2, 0.45)]
    start = clock.now - 1.5
    times: list[float] = []
    randomly = random.Random(7)
    if pace == "flood":
        arrivals = [second + tenth / 5 for second in range(240) for tenth in range(5)]
    elif pace == "random":
        arrivals = sorted(randomly.uniform(0, 240) for _ in range(900))
    else:
        arrivals = [60.2 + n * 0.0005 for n in range(110)] + [120.1 + n * 0.01 for n in range(600)]
    for number, arrival in enumerate(arrivals):
        clock.now = start + arrival
        # The first burst, if there is one, goes to the replica whose clock is behind.
        limits = replicas[-1] if arrival < 60.4 else replicas[number % 3]
        try:
            await limits.admit(account_id, ["api"])
        except RateLimited:
            await _settled(limits)
        else:
            times.append(arrival)
    worst = max(sum(begin <= t < begin + 60 for t in times) for begin in times)
    assert worst <= 100
    assert len(times) >= 100


@pytest.mark.parametrize("slots", [1, EPOCH_SLOTS], ids=["slot", "epoch"])
@pytest.mark.parametrize("behind", [0.0, 0.01, 0.05, 0.45])
async def test_bursts_across_the_end_of_a_time_slot_admit_exactly_the_limit_despite_clock_skew(
    servers: Stack, patience: None, behind: float, slots: int
) -> None:
    policy = Policy("api", 100, window=3600)
    async with contextlib.AsyncExitStack() as stack:
        url = servers.nats.url("gateway")
        connections = [
            await stack.enter_async_context(bus.connect(url, "gateway")) for _ in range(3)
        ]
        for lead in (0.05, 0.02, 0.0):
            account_id = account()
            # A slot ends soon, for each replica at another moment.
            ending = (policy.slot(time.time()) // slots + 1) * slots
            until_end = policy.begin(ending) - lead - time.time()
            replicas = [
                Limits(connection, [policy], now=partial(_later, until_end - behind * number / 2))
                for number, connection in enumerate(connections)
            ]
            await replicas[0].start()
            delays = [(2 * lead + behind) * n / 170 for n in range(170)]
            bursts = [_admitted_over(replica, account_id, delays) for replica in replicas]
            total = sum(await asyncio.gather(*bursts))
            assert total <= 100
            # Replicas that saw each other's counts may have refused requests that fit.
            for _ in range(100 - total):
                await asyncio.gather(*map(_settled, replicas))
                # On a slow machine a replica may read before another has given back.
                replicas[0]._over.clear()
                await replicas[0].admit(account_id, ["api"])
            await asyncio.gather(*map(_settled, replicas))
            for replica in replicas:
                with pytest.raises(OverLimit):
                    await replica.admit(account_id, ["api"])


def _later(seconds: float) -> float:
    return time.time() + seconds


async def _admitted_over(limits: Limits, account_id: str, delays: list[float]) -> int:
    async def admit(delay: float) -> int:
        await asyncio.sleep(delay)
        try:
            await limits.admit(account_id, ["api"])
        except OverLimit:
            return 0
        return 1

    return sum(await asyncio.gather(*map(admit, delays)))


async def test_a_count_confirmed_late_is_repeated_in_the_current_time_slot(nats: NatsBus) -> None:
    clock, account_id = Clock(), account()
    limits = await limiter(nats, 1, clock)
    admission = asyncio.create_task(limits.admit(account_id, ["api"]))
    await asyncio.sleep(0)
    clock.now += 3
    [standing] = await admission
    assert standing.slot == standing.policy.slot(clock.now)
    await _settled(limits)
    window = await limits.counters.read(account_id, standing.policy)
    assert {slot for slot, n in window.slots(0).items() if n} == {standing.slot}


async def test_requests_refused_by_one_policy_are_not_counted_by_the_others(nats: NatsBus) -> None:
    account_id = account()
    limits = Limits(nats, [Policy("wide", 100), Policy("narrow", 10)], now=Clock())
    await limits.start()

    async def admitted_to(times: int, *names: str) -> int:
        requests = (limits.admit(account_id, names) for _ in range(times))
        outcomes = await asyncio.gather(*requests, return_exceptions=True)
        return sum(isinstance(outcome, list) for outcome in outcomes)

    assert await admitted_to(120, "wide", "narrow") == 10
    await _settled(limits)
    assert await admitted_to(120, "wide") == 90


async def test_an_account_is_admitted_again_once_another_replica_refunds_its_requests(
    nats: NatsBus, servers: Stack
) -> None:
    clock, account_id = Clock(), account()
    async with bus.connect(servers.nats.url("gateway"), "gateway") as second:
        here, there = await limiter(nats, 5, clock), await limiter(second, 5, clock)
        standings = [await there.admit(account_id, ["api"]) for _ in range(5)]
        with pytest.raises(OverLimit) as caught:
            await here.admit(account_id, ["api"])
        assert caught.value.retry_after == 62
        for [standing] in standings:
            there.refund(account_id, [standing])
        await _settled(there)
        await _settled(here)
        assert await admitted(here, account_id, 9) == 5


async def test_refused_requests_do_not_count_against_the_limit(nats: NatsBus) -> None:
    clock, account_id = Clock(), account()
    limits = await limiter(nats, 10, clock)
    assert await admitted(limits, account_id, 1000) == 10
    clock.now += 62
    assert await admitted(limits, account_id, 1000) == 10


async def test_requests_of_an_account_over_its_limit_send_no_message(nats: NatsBus) -> None:
    account_id = account()
    limits = await limiter(nats, 10, Clock())
    await admitted(limits, account_id, 20)
    sent = nats.client.stats["out_msgs"]
    assert await admitted(limits, account_id, 5000) == 0
    assert nats.client.stats["out_msgs"] == sent


async def test_retry_after_is_exactly_long_enough(nats: NatsBus) -> None:
    clock, account_id = Clock(), account()
    limits = await limiter(nats, 10, clock)
    clock.now += 20
    await admitted(limits, account_id, 10)
    with pytest.raises(OverLimit) as caught:
        await limits.admit(account_id, ["api"])
    assert caught.value.retry_after is not None
    clock.now += caught.value.retry_after - 2
    assert await admitted(limits, account_id, 1) == 0
    clock.now += 2
    assert await admitted(limits, account_id, 1) == 1


async def test_a_request_that_one_policy_refuses_counts_for_none(nats: NatsBus) -> None:
    account_id = account()
    limits = Limits(nats, [Policy("wide", 5), Policy("narrow", 1)], now=Clock())
    await limits.start()
    await limits.admit(account_id, ["wide", "narrow"])
    for _ in range(3):
        with pytest.raises(RateLimited):
            await limits.admit(account_id, ["wide", "narrow"])
    await _settled(limits)
    for _ in range(4):
        await limits.admit(account_id, ["wide"])
    with pytest.raises(RateLimited):
        await limits.admit(account_id, ["wide"])


async def test_a_refunded_request_leaves_its_place_in_the_limit_free(nats: NatsBus) -> None:
    clock, account_id = Clock(), account()
    limits = await limiter(nats, 1, clock)
    for _ in range(5):
        [standing] = await limits.admit(account_id, ["api"])
        clock.now += 0.01
        limits.refund(account_id, [standing])
        await _settled(limits)
    clock.now += 60  # a refund belongs to the window in which it was counted
    assert await admitted(limits, account_id, 5) == 1


async def test_policies_that_share_a_counter_are_counted_by_one_message(nats: NatsBus) -> None:
    account_id = account()
    policies = [Policy("api", 100), Policy("generate", 10, shared_with="api")]
    limits = Limits(nats, policies, now=Clock())
    await limits.start()
    await limits.admit(account_id, ["api"])
    sent = nats.client.stats["out_msgs"]
    for _ in range(5):
        standings = await limits.admit(account_id, ["api", "generate"])
    assert nats.client.stats["out_msgs"] == sent + 5
    assert [standing.remaining for standing in standings] == [94, 5]
    for _ in range(5):
        await limits.admit(account_id, ["api", "generate"])
    with pytest.raises(OverLimit) as caught:
        await limits.admit(account_id, ["api", "generate"])
    assert caught.value.standing.policy.name == "generate"
    await _settled(limits)
    [standing] = await limits.admit(account_id, ["api"])
    assert standing.remaining == 88


async def test_only_requests_within_a_replicas_share_may_start_early(nats: NatsBus) -> None:
    limits, account_id = await limiter(nats, 10, Clock(), replicas=2), account()
    at_once = [limits.begin(account_id, ["api"]) for _ in range(7)]
    assert [admission.early for admission in at_once] == [True] * 5 + [False] * 2
    for admission in at_once:
        await admission.standings()
    last = limits.begin(account_id, ["api"])
    assert not last.early
    await last.standings()


async def test_a_count_below_zero_does_not_change_the_counts_beside_it(nats: NatsBus) -> None:
    clock, account_id = Clock(), account()
    policies = [Policy("api", 5), Policy("generate", 5, shared_with="api")]
    limits = Limits(nats, policies, now=clock)
    await limits.start()
    standings = await limits.admit(account_id, ["api", "generate"])
    await nats.client.jetstream().purge_stream("LIMITS_60", subject=f"limit.60.api.{account_id}.*")
    limits.refund(account_id, standings[:1])
    await _settled(limits)
    clock.now += 3
    again = await limits.admit(account_id, ["api", "generate"])
    assert [standing.remaining for standing in again] == [5, 4]


async def test_counting_continues_after_the_bus_lost_its_streams(nats: NatsBus) -> None:
    account_id = account()
    limits = await limiter(nats, 5, Clock())
    await nats.client.jetstream().delete_stream("LIMITS_60")
    assert await admitted(limits, account_id, 9) == 5


async def test_without_the_bus_reads_get_a_share_and_costly_requests_are_refused(
    servers: Stack,
) -> None:
    async with bus.connect(servers.nats.url("gateway"), "gateway") as connection:
        limits, earlier = await limiter(connection, 100, Clock(), replicas=2), account()
        assert await admitted(limits, earlier, 30) == 30
        servers.stop("nats")
        try:
            account_id = account()
            for _ in range(60):  # refused, and counted against nothing
                with pytest.raises(Unavailable):
                    await limits.admit(account_id, ["api", "costly"])
            assert await admitted(limits, account_id, 80) == 50
            with pytest.raises(Unavailable):
                await limits.admit(account_id, ["costly"])
        finally:
            servers.processes["nats"].start()
            await asyncio.to_thread(servers.wait_until_ready, "nats")
        while not limits.bus_available:
            await asyncio.sleep(0.05)
        assert await admitted(limits, account(), 120) == 100
        assert await admitted(limits, earlier, 120) == 70  # the restarted bus has its counts


async def test_a_hanging_bus_delays_only_the_requests_in_flight(
    servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.counter_store.COUNT_TIMEOUT_S", 0.5)
    server = servers.processes["nats"].pid
    async with bus.connect(servers.nats.url("gateway"), "gateway") as connection:
        limits, account_id = await limiter(connection, 100, Clock(), replicas=2), account()
        suspend(server)
        try:
            [standing] = await limits.admit(account_id, ["api"])
            assert standing.slot is None  # counted alone
            with monkeypatch.context() as patched:
                patched.setattr(limits.counters, "count", pytest.fail)
                patched.setattr(limits.counters, "read", pytest.fail)
                for _ in range(20):
                    await asyncio.sleep(0.1)
                    await limits.admit(account_id, ["api"])
                    await limits.refuse_if_spent(account_id, ["api"])
        finally:
            os.kill(server, signal.SIGCONT)
        while not limits.bus_available:
            await asyncio.sleep(0.05)
        assert await admitted(limits, account(), 120) == 100


async def test_reading_the_rest_of_a_limit_counts_no_request(nats: NatsBus) -> None:
    limits, account_id = await limiter(nats, 10, Clock()), account()
    assert (await limits.read(account_id, "costly")).remaining == 10
    for _ in range(3):
        await limits.admit(account_id, ["api", "costly"])
    await limits.admit(account_id, ["api"])
    for _ in range(2):
        standing = await limits.read(account_id, "costly")
        assert (standing.remaining, standing.reset) == (7, 62)
