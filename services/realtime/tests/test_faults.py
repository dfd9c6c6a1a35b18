"""Sockets while another part of the system is unavailable."""

import asyncio
import contextlib
import os
import shutil
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import pytest
from socketio.exceptions import ConnectionError as Refused
from socketio.exceptions import SocketIOError

from .conftest import counts, requests_to_both


class Follower:
    """A client that subscribes again with the time of its last update, as documented."""

    def __init__(self, watcher) -> None:
        self.watcher = watcher
        self.since = datetime.now(UTC).isoformat()
        self.connections = 0
        watcher.client.on("connect", self.subscribe)
        watcher.client.on("gap", self.resubscribe)

    async def subscribe(self) -> None:
        self.connections += 1
        updates = self.watcher.of("metric_update")
        since = updates[-1]["timestamp"] if updates else self.since
        # Where the connection is lost meanwhile, the next one subscribes.
        with contextlib.suppress(SocketIOError):
            await self.watcher.subscribe("m", since=since)

    async def resubscribe(self, gap) -> None:
        self.watcher.received.append(("gap", gap))
        # The metrics service may reconnect a moment later than the sockets.
        await self.watcher.subscribe("m", since=gap["since"])

    def numbers(self) -> list[int]:
        updates = self.watcher.of("metric_update")
        return [int(name[1:]) for update in updates for name in update["metrics"]]

    async def up_to(self, last: int) -> list[int]:
        async with asyncio.timeout(90):
            while last not in self.numbers():
                await asyncio.sleep(0.05)
        return self.numbers()


@pytest.fixture
async def broken(own_stack, join_others, new_watcher):
    """A stack to break, its stand-in services, and a function that follows model m of account f."""
    async with AsyncExitStack() as stays:
        others = await join_others(own_stack, stays)
        await others.record("f", "m", tell=False, n0=0)
        await asyncio.sleep(0.01)

        async def follow(**options) -> Follower:
            watcher = new_watcher("f/key", own_stack.url, reconnection=True, **options)
            follower = Follower(watcher)
            await watcher.connect()
            return follower

        yield own_stack, others, follow


async def test_after_the_bus_crashes_or_loses_its_store_every_update_arrives_once(
    broken, new_watcher
):
    stack, others, follow = broken
    followers = [
        await follow(request=request) for request in await requests_to_both(stack, new_watcher)
    ]
    assert all(await counts(stack, "clients"))
    # Its polls may get another replica for a moment, so that it connects again.
    everyone = [*followers, await follow(transports=["polling"])]
    revoked = await new_watcher("f/gone", stack.url).connect()
    await others.record("f", "m", n1=0)
    for follower in everyone:
        await follower.up_to(1)
    await asyncio.sleep(2.5)  # beyond CLOCK_MARGIN, so that 1 is not replayed
    os.kill(stack.processes["nats"].pid, signal.SIGKILL)
    others.revoked.add("gone")  # and no event could report the loss
    for number in range(2, 41):
        await others.record("f", "m", tell=False, **{f"n{number}": 0})
    for follower in everyone:
        await follower.up_to(40)
    await others.record("f", "m", n41=0)
    for follower in everyone:
        assert await follower.up_to(41) == list(range(1, 42))
    assert all(len(follower.watcher.of("gap")) == 1 for follower in followers)
    await asyncio.wait_for(revoked.disconnected.wait(), 60)
    assert revoked.of("error")[-1]["code"] == 2001
    await asyncio.sleep(2.5)  # as above
    await asyncio.to_thread(stack.stop, "nats")
    shutil.rmtree(stack.nats.data)
    for number in range(42, 81):
        await others.record("f", "m", tell=False, **{f"n{number}": 0})
    stack.processes["nats"].start()
    for follower in everyone:
        assert await follower.up_to(80) == list(range(1, 81))
    assert all(follower.connections == 1 for follower in followers)
    assert not any(follower.watcher.disconnected.is_set() for follower in followers)


async def test_a_connection_that_breaks_between_a_gap_and_its_replay_gets_nothing_twice(
    broken, new_watcher
):
    stack, others, _ = broken
    host, port = stack.addresses["realtime"][0]
    url = f"http://{host}:{port}"
    stays = await new_watcher("f/key", url).connect()
    breaks = await new_watcher("f/key", url).connect()
    await stays.subscribe("m")
    cursor = (await breaks.subscribe("m", cursor=True))["cursor"]
    os.kill(stack.processes["nats"].pid, signal.SIGKILL)
    for watcher in (stays, breaks):
        await watcher.wait_for("gap")
    await others.record("f", "m", n1=0)
    await others.alert("f", "m", "slow")
    await stays.wait_for("metric_update")
    await stays.wait_for("alert")
    await asyncio.sleep(0.2)  # until it has what was sent to it
    await breaks.close()
    again = await new_watcher("f/key", url).connect()
    await again.subscribe("m", since=cursor)
    received = [*breaks.received, *again.received]
    assert [event for event, _ in received] == ["gap", "metric_update", "alert"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_clients_of_a_replica_that_ends_reconnect_and_miss_nothing(broken, number):
    stack, others, follow = broken
    followers = [await follow(transports=["websocket"]) for _ in range(8)]
    followers += [await follow() for _ in range(2)]  # ten sockets: the account has no spare slot
    await others.record("f", "m", n1=0)
    for follower in followers:
        await follower.up_to(1)
    for count, name in enumerate(("realtime-1", "realtime-2"), 1):
        os.kill(stack.processes[name].pid, number)
        for step in range(10):
            await others.record("f", "m", **{f"n{count * 10 + step}": 0})
            await asyncio.sleep(0.1)
        for follower in followers:
            await follower.up_to(count * 10 + 9)
        await asyncio.to_thread(stack.wait_until_ready, name)
    expected = [1, *range(10, 30)]
    assert [follower.numbers() for follower in followers] == [expected] * 10
    assert all(1 <= follower.connections <= 4 for follower in followers)
    if number == signal.SIGTERM:
        assert any(follower.watcher.of("server_draining") for follower in followers)


async def test_sockets_stay_open_while_the_metrics_service_is_unavailable(broken):
    _, others, follow = broken
    follower = await follow()
    await others.record("f", "m", n1=0)
    await follower.up_to(1)
    await others.metrics.client.close()
    assert await follower.watcher.subscribe("m") == {"status": "success"}
    assert await follower.watcher.subscribe("another") == {"status": "success"}
    since = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    assert (await follower.watcher.subscribe("m", once=True, since=since))["code"] == 5003
    await others.progress("f", "run_1", 3)
    await follower.watcher.wait_for("benchmark_progress")
    assert not follower.watcher.disconnected.is_set()


async def test_the_limit_of_ten_sockets_holds_after_the_bus_has_lost_the_slots(broken, new_watcher):
    stack, _, _ = broken
    watchers = [await new_watcher("ten/key", stack.url).connect() for _ in range(10)]
    os.kill(stack.processes["nats"].pid, signal.SIGKILL)
    for watcher in watchers:
        await watcher.wait_for("gap")
    refusals = 0
    async with asyncio.timeout(60):
        while refusals < 5:
            late = new_watcher("ten/key", stack.url)
            with contextlib.suppress(Refused):
                await late.connect()
            refusals += late.refused is not None and late.refused["data"]["code"] == 2002
            await asyncio.sleep(0.2)
    async with asyncio.timeout(60):
        while sum(await counts(stack, "clients")) != 10:
            await asyncio.sleep(0.2)
