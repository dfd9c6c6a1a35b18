"""Sockets under faults: the time until clients receive updates again, and the cost of idle ones."""

import asyncio
import os
import signal
import statistics
import time
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import aiohttp
import psutil
import socketio
import uvloop

from benchmarks import realtime
from benchmarks.realtime import WHOLE, Client
from benchmarks.report import Report, figure
from integration.caller import PASSWORD, Account
from local.services import Service
from local.stack import Stack

MODEL = "owner/watched"
FOLLOWERS = 10
IDLE, PER_ACCOUNT = 10_000, 10
# Connections opened at a time.
TOGETHER = 50
HEALTHY = 10
TIMEOUT_S = 120.0


def measure() -> Report:
    report = Report(f"Sockets when things go wrong: {FOLLOWERS} real clients through the edge")
    limits = {"RATE_API": "1000000000", "LOG_LEVEL": "ERROR"}
    with Stack(services=WHOLE, environment=limits, flood_limit=1_000_000) as stack:
        uvloop.run(_faults(stack, report))
    services = (Service("realtime", replicas=1, http=True),)
    with Stack(servers={"nats"}, services=services, environment={"LOG_LEVEL": "ERROR"}) as stack:
        uvloop.run(_idle(stack, report))
    return report


class Follower:
    """A client that misses nothing, as docs/how-to/watch.md describes."""

    def __init__(self, token: str, source: str = "127.0.0.1") -> None:
        self.token = token
        self.numbers: list[int] = []
        self.cursor: str | None = None
        self.gone = 0.0
        connector = aiohttp.TCPConnector(local_addr=(source, 0))
        self.http = aiohttp.ClientSession(connector=connector)
        self.client = socketio.AsyncClient(http_session=self.http, reconnection_delay=0.5)
        self.client.on("connect", self._subscribe)
        self.client.on("gap", self._fill)
        self.client.on("metric_update", self._hear)
        self.client.on("disconnect", self._end)

    async def connect(self, url: str) -> None:
        await self.client.connect(url, auth={"token": self.token})
        await _until(lambda: self.cursor is not None)

    async def _subscribe(self, since: str | None = None) -> None:
        request = {"modelId": MODEL, "since": since or self.cursor, "cursor": True}
        await self.client.emit("subscribe_metrics", request, callback=self._answered)

    async def _answered(self, answer: dict[str, Any]) -> None:
        if answer["status"] == "success":
            self.cursor = answer.get("cursor", self.cursor)
        else:
            await asyncio.sleep(0.2)
            await self._subscribe()

    async def _fill(self, gap: dict[str, str]) -> None:
        await self._subscribe(gap["since"])

    async def _hear(self, update: dict[str, Any]) -> None:
        self.cursor = update.get("cursor", self.cursor)  # none between a gap and its replay
        self.numbers += [int(name[1:]) for name in update["metrics"]]

    async def _end(self, _reason: str) -> None:
        self.gone = time.monotonic()

    async def close(self) -> None:
        await self.client.shutdown()
        await self.http.close()


async def _faults(stack: Stack, report: Report) -> None:
    account = Account(stack.url)
    number = 0

    async def record() -> int:
        """Record the next number, retrying until it is accepted."""
        nonlocal number
        body = {"modelId": MODEL, "metrics": {f"n{number}": 1.0}}
        deadline = time.monotonic() + TIMEOUT_S
        while (await asyncio.to_thread(_post, account, body)) != 200:
            if time.monotonic() > deadline:
                raise TimeoutError("nothing can be recorded")
            await asyncio.sleep(0.05)
        number += 1
        return number - 1

    await record()
    await asyncio.sleep(1)  # until the event has been published
    followers = [Follower(account.key, f"127.0.0.{2 + n}") for n in range(FOLLOWERS)]
    for follower in followers:
        await follower.connect(stack.url)

    async def heard_after(kill: list[str]) -> float:
        """Return the seconds from a kill until every client has a record made after it."""
        start = time.monotonic()
        for name in kill:
            os.kill(stack.processes[name].pid, signal.SIGKILL)
        last = await record()
        await _until(lambda: all(last in follower.numbers for follower in followers))
        seconds = time.monotonic() - start
        await asyncio.to_thread(stack.wait_until_ready)
        return seconds

    replica = [await heard_after([f"realtime-{n % 2 + 1}"]) for n in range(4)]
    report.add(figure("a replica killed: the last client hears", max(replica), "s", at_most=10))
    bus = [await heard_after(["nats"]) for _ in range(3)]
    report.add(figure("the bus killed: the last client hears", max(bus), "s", at_most=5))
    # Two replicas that record at the same moment may publish in either order.
    wrong = sum(sorted(f.numbers) != list(range(1, number)) for f in followers)
    report.add(figure("clients that missed or doubled anything", wrong, "clients", at_most=0))
    for follower in followers:
        await follower.close()
    waits = [await _revoked(stack, account, f"127.0.0.{2 + n}") for n in range(5)]
    report.add(figure("a key revoked: its socket is closed", max(waits), "s", at_most=1))
    report.notes.append("all of the account's sockets are in use, so a killed replica's are freed")
    account.http.close()


def _post(account: Account, body: dict[str, Any]) -> int:
    return account.post("/v1/api/monitor/record", body).status_code


async def _revoked(stack: Stack, account: Account, source: str) -> float:
    key = account.make_key("short-lived")
    follower = Follower(key["key"], source)
    await follower.connect(stack.url)
    answer = account.http.delete(f"/v1/api/keys/{key['id']}", auth=(account.email, PASSWORD))
    answered = time.monotonic()
    answer.raise_for_status()
    await _until(lambda: follower.gone > 0)
    await follower.close()
    return max(follower.gone - answered, 0.0)


async def _idle(stack: Stack, report: Report) -> None:
    """Hold idle sockets that only answer pings, and a few that receive ten updates a second."""
    process = psutil.Process(stack.processes["realtime-1"].pid)
    [address] = stack.addresses["realtime"]
    loop = asyncio.get_running_loop()
    latencies: list[float] = []
    async with AsyncExitStack() as stays:
        publish = await realtime.publisher(stack, stays)
        before = process.memory_info().rss
        start = time.monotonic()
        for first in range(0, IDLE, TOGETHER):
            clients = []
            for n in range(first, first + TOGETHER):
                make = partial(Client, f"idle{n // PER_ACCOUNT}/k", "nothing", _ignore)
                clients.append((await loop.create_connection(make, *address))[1])
            await asyncio.wait_for(asyncio.gather(*(c.ready for c in clients)), TIMEOUT_S)
        rate = IDLE / (time.monotonic() - start)
        memory = (process.memory_info().rss - before) / IDLE / 1024
        for n in range(HEALTHY):
            make = partial(
                Client, f"a0/k{n}", "m0", lambda _: latencies.append(time.perf_counter())
            )
            _, client = await loop.create_connection(make, *address)
            await asyncio.wait_for(client.ready, TIMEOUT_S)
        waits = []
        for _ in range(100):
            latencies.clear()
            sent = time.perf_counter()
            await publish(0)
            await _until(lambda: len(latencies) == HEALTHY)
            waits.append((max(latencies) - sent) * 1000)
            await asyncio.sleep(0.1)
    report.add(figure(f"{IDLE:,} idle sockets on one process: opened", rate, "sockets/s"))
    report.add(figure("memory of each", memory, "KiB", at_most=64))
    tail = statistics.quantiles(waits, n=100)[98]
    report.add(figure("an update beside them, 99th percentile", tail, "ms", at_most=1000))


def _ignore(_: bytes) -> None:
    """Ignore an event."""


async def _until(true: Any) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("clients do not hear")
        await asyncio.sleep(0.005)
