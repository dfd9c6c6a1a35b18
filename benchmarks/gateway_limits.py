"""The limiter: its exactness across four gateways, its cost of refusing, and of counting."""

import asyncio
import bisect
import contextlib
import functools
import itertools
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx2
import nats

from benchmarks.report import Report, figure
from common import bus
from gateway.limits import Limits
from gateway.windows import Policy
from integration.caller import Account
from local.services import Service
from local.stack import Stack

# Seconds for which one key sends requests without pause.
WINDOWS_S = 150.0


def measure() -> Report:
    report = Report("Gateway: rate limits")
    _count_exactly(report)
    with Stack(servers={"nats"}, services=[Service("gateway", replicas=0)]) as system:
        median = asyncio.run(_decision(system))
    report.add(figure("deciding about a request, median", median, "ms", at_most=0.5))
    return report


def _count_exactly(report: Report) -> None:
    """Test four gateways with one key: 500 calls at once, a flood, and calls without pause."""
    gateways = Service("gateway", replicas=4, database=True, http=True)
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(
            Stack(services=[gateways], environment={"RATE_REGISTER": "1000"})
        )
        doors = [
            stack.enter_context(
                httpx2.Client(
                    base_url=f"http://{host}:{port}",
                    timeout=60,
                    limits=httpx2.Limits(max_connections=None),
                )
            )
            for host, port in system.addresses["gateway"]
        ]

        def call(account: Account, door: httpx2.Client) -> httpx2.Response:
            return door.get("/v1/api/benchmark/none", headers=account.headers)

        account = Account(system.url)
        left = int(call(account, doors[0]).headers["x-ratelimit-remaining"])
        with ThreadPoolExecutor(500) as pool:
            at_once = [pool.submit(call, account, doors[n % 4]) for n in range(500)]
            admitted = sum(answer.result().status_code != 429 for answer in at_once)
        before = _messages(system)
        with ThreadPoolExecutor(16) as pool:
            flood = [pool.submit(call, account, doors[n % 4]) for n in range(500)]
            assert {answer.result().status_code for answer in flood} == {429}
        during = _messages(system) - before
        account = Account(system.url)
        worst = _worst_window([functools.partial(call, account, door) for door in doors])
    report.add(
        figure(
            f"admitted of 500 at once, with {left} left",
            admitted,
            "requests",
            at_least=left,
            at_most=left,
        )
    )
    report.add(figure("bus messages for 500 more on the key", during, "messages", at_most=0))
    report.add(
        figure(
            f"admitted in the worst 60 s of {WINDOWS_S:g}, limit 100",
            worst,
            "requests",
            at_most=105,
        )
    )


def _worst_window(doors: list[Callable[[], httpx2.Response]]) -> int:
    """Return the most requests admitted in any 60 s, with four clients per gateway and no pause."""
    end = time.monotonic() + WINDOWS_S

    def ask_on(door: Callable[[], httpx2.Response]) -> list[float]:
        admitted = []
        while (now := time.monotonic()) < end:
            if door().status_code == 429:
                time.sleep(0.02)  # leaves CPU time to the gateways
            else:
                admitted.append(now)
        return admitted

    with ThreadPoolExecutor(4 * len(doors)) as pool:
        times = sorted(itertools.chain(*pool.map(ask_on, 4 * doors)))
    return max(bisect.bisect(times, first + 60) - n for n, first in enumerate(times))


async def _decision(system: Stack) -> float:
    """Return the median milliseconds of a decision."""
    async with bus.connect(system.nats.url("gateway"), "gateway") as connection:
        limits = Limits(connection, [Policy("api", 1_000_000)])
        await limits.start()
        times: list[float] = []
        for _ in range(3000):
            start = time.perf_counter()
            await limits.admit("acc_one", ["api"])
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3


def _messages(system: Stack) -> int:
    """Return the number of messages published to the counters' stream."""

    async def count() -> int:
        client = await nats.connect(system.nats.url("supervisor"), inbox_prefix="_INBOX.supervisor")
        try:
            info = await client.jetstream().stream_info("LIMITS_60")
            return info.state.last_seq
        finally:
            await client.close()

    return asyncio.run(count())
