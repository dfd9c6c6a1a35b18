"""What waits for a client while it is told what it missed is bounded, and nothing of it is lost."""

import asyncio
from typing import Any

import pytest

from common.context import Context, current
from common.contracts.monitoring import (
    HISTORY,
    LIST_ALERTS,
    RECALL,
    Alerts,
    History,
    MetricUpdate,
    Moments,
    Recalled,
    parse_time,
)
from common.errors import Unavailable
from common.testing import MemoryBus
from realtime import missed
from realtime.cursor import Cursor, microseconds
from realtime.missed import Missed
from realtime.topics import MOST_HELD, Member, Topic, Topics
from realtime.topics import Alerts as Told

START = 800_000_000_000_000


class Slow:
    """A client; whenever it has room, more has happened."""

    gone = False

    def __init__(self, topic: Topic, happen) -> None:
        self.topic = topic
        self.happen = happen
        self.got: list[int] = []
        self.marked: list[bool] = []

    async def has_room(self) -> None:
        await self.happen()

    def keep(self, update, after="") -> None:
        self.marked.append("cursor" in update.data)
        self.got += [int(name[1:]) for name in update.data["metrics"]]

    def deliver(self, update, now) -> None:
        self.keep(update)


@pytest.mark.parametrize(("each", "times"), [(0, 0), (3, 400), (MOST_HELD + 5, 1)])
async def test_more_than_is_held_is_told_all_the_same(each: int, times: int) -> None:
    current.set(Context(account="a"))
    bus, topic, stored = MemoryBus(), Topic("a", "m"), []

    def store() -> MetricUpdate:
        number = len(stored)
        update = MetricUpdate(
            model_id="m",
            timestamp=f"2026-01-01T00:00:{number // 1000:02}.{number % 1000:03}Z",
            metrics={f"n{number}": 1.0},
            arrival=(START + number) * 256 + 1,
        )
        stored.append(update)
        return update

    async def history(request):
        after = max([request.heard.floor, *(arrival for arrival, _ in request.heard.places)])
        found = [(u.arrival, microseconds(parse_time(u.timestamp))) for u in stored]
        found = [moment for moment in found if moment[0] > after]
        return History(moments=Moments.pack(found), complete=True, heard=request.heard)

    async def recall(request):
        asked = {arrival for arrival, _ in request.moments.unpack()}
        return Recalled(updates=[u for u in stored if u.arrival in asked], told=len(asked))

    async def alerts(_request):
        return Alerts(alerts=[])

    bus.answer(HISTORY, history)
    bus.answer(RECALL, recall)
    bus.answer(LIST_ALERTS, alerts)
    left = times

    async def happen() -> None:
        nonlocal left
        if left:
            left -= 1
            for _ in range(each):
                await topic.hear(store())
            held = topic.members[client].held
            assert held is not None
            assert len(held) <= MOST_HELD

    client = Slow(topic, happen)
    member = topic.members[client] = Member(None, topic.count)
    first = store()
    for _ in range(500):
        store()
    topic.hold(member)
    since = Cursor(0, 0, [(first.arrival, microseconds(parse_time(first.timestamp)))])
    complete = await Missed(bus).tell(client, Told(), topic, since=since, marked=True)
    assert complete
    await topic.hear(store())
    assert client.got == list(range(1, len(stored)))


def past(bus: MemoryBus, *updates: MetricUpdate) -> None:
    """What the metrics service says of model m: just these updates were missed."""
    moments = [(u.arrival, microseconds(parse_time(u.timestamp))) for u in updates]

    async def history(request):
        return History(moments=Moments.pack(moments), complete=True, heard=request.heard)

    async def recall(request):
        asked = request.moments.unpack()
        return Recalled(updates=[u for u in updates if u.arrival in dict(asked)], told=len(asked))

    async def alerts(_request):
        return Alerts(alerts=[])

    bus.answer(HISTORY, history)
    bus.answer(RECALL, recall)
    bus.answer(LIST_ALERTS, alerts)


def sample(number: int) -> MetricUpdate:
    return MetricUpdate(
        model_id="m",
        timestamp=f"2026-01-01T00:00:{number:02}Z",
        metrics={f"n{number}": 1.0},
        arrival=(START + number) * 256 + 1,
    )


async def nothing() -> None: ...


async def test_who_reads_too_slowly_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(missed, "READING", 0.05)
    current.set(Context(account="a"))
    bus, topic = MemoryBus(), Topic("a", "m")
    past(bus, sample(1))
    telling = Missed(bus)

    async def tell(happen: Any) -> list[int]:
        client = Slow(topic, happen)
        topic.members[client] = Member(None, topic.count)
        topic.hold(topic.members[client])
        await telling.tell(client, Told(), topic, since=Cursor(0, 0, []), marked=True)
        return client.got

    slow = [asyncio.create_task(tell(asyncio.Event().wait)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await tell(nothing) == [1]
        for error in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(error, Unavailable)


@pytest.mark.parametrize("when", ["before", "while it is told"])
async def test_once_events_were_lost_no_cursor_says_that_they_were_heard(when: str) -> None:
    current.set(Context(account="a"))
    bus: Any = MemoryBus()
    topics, topic = Topics(bus), Topic("a", "m")
    topics.models["a", "m"] = topic
    past(bus, sample(1))

    async def lose() -> None:
        topics.lose()

    client = Slow(topic, lose if when == "while it is told" else nothing)
    member = topic.members[client] = Member(None, topic.count)

    async def tell() -> None:
        topic.hold(member)
        await Missed(bus).tell(client, Told(), topic, since=Cursor(0, 0, []), marked=True)

    await tell()
    if when == "before":
        topics.lose()
    await topic.hear(sample(3))
    assert client.marked == [True, False]
    client.happen = nothing
    member.wish(None)
    await tell()
    await topic.hear(sample(4))
    assert client.marked == [True, False, True, True]


class Closed:
    """The connection to a bus that has just gone away: only who writes to it notices."""

    async def flush(self, timeout: float) -> None:
        raise RuntimeError("the handler is closed")

    async def unsubscribe(self) -> None:
        raise RuntimeError("the handler is closed")


class ClosedBus:
    client = Closed()

    async def subscribe(self, *_args: Any, **_options: Any) -> Closed:
        return self.client


async def test_who_subscribes_while_the_bus_goes_away_is_told_so_and_forgotten() -> None:
    bus: Any = ClosedBus()
    topics, client = Topics(bus), Slow(Topic("a", "m"), None)
    with pytest.raises(Unavailable):
        await topics.join("a", "m", client, None)
    assert not topics.models
    with pytest.raises(Unavailable):
        await topics.enter("a", client)
    topics.exit("a", client)
    assert not topics.accounts
    await asyncio.gather(*topics._ending)
