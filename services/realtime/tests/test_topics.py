"""Events held back during a replay, bounded and never lost."""

import asyncio
from typing import Any

import pytest

from common.context import Context, current
from common.contracts.alerts import LIST_ALERTS, AlertEvent, Alerts
from common.contracts.history import HISTORY, RECALL, History, MetricUpdate, Moments, Recalled
from common.contracts.timestamps import parse_time, to_us
from common.errors import Unavailable
from common.testing import MemoryBus
from realtime import replay
from realtime import topic as topic_module
from realtime.cursor import Cursor
from realtime.replay import Replay
from realtime.topic import MAX_HELD, SeenAlerts, Subscriber, Topic
from realtime.topics import Account, Topics

START = 800_000_000_000_000


class Slow:
    """A slow client: each time it has room, more updates have arrived."""

    closed = False
    gap = None

    def __init__(self, topic: Topic, happen) -> None:
        self.topic = topic
        self.happen = happen
        self.received: list[int] = []
        self.with_cursor: list[bool] = []

    async def has_room(self) -> None:
        await self.happen()

    def deliver_guaranteed(self, update, after="") -> None:
        self.with_cursor.append("cursor" in update.data)
        self.received += [int(name[1:]) for name in update.data["metrics"]]

    def deliver(self, update, now_s) -> None:
        self.deliver_guaranteed(update)


@pytest.mark.parametrize(("each", "times"), [(0, 0), (3, 400), (MAX_HELD + 5, 1)])
async def test_events_that_overflow_during_a_replay_are_read_in_another_round(
    each: int, times: int
) -> None:
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
        after = max([request.position.floor, *(arrival for arrival, _ in request.position.places)])
        arrivals = [(u.arrival, to_us(parse_time(u.timestamp))) for u in stored]
        arrivals = [moment for moment in arrivals if moment[0] > after]
        return History(moments=Moments.pack(arrivals), complete=True, position=request.position)

    async def recall(request):
        requested = {arrival for arrival, _ in request.moments.unpack()}
        return Recalled(updates=[u for u in stored if u.arrival in requested], count=len(requested))

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
                await topic.publish(store())
            held = topic.subscribers[client].held
            assert held is not None
            assert len(held) <= MAX_HELD

    client = Slow(topic, happen)
    subscriber = topic.subscribers[client] = Subscriber(None, topic.count)
    first = store()
    for _ in range(500):
        store()
    topic.hold(subscriber)
    since = Cursor(0, 0, [(first.arrival, to_us(parse_time(first.timestamp)))])
    complete = await Replay(bus).run(client, SeenAlerts(), topic, since=since, with_cursor=True)
    assert complete
    await topic.publish(store())
    assert client.received == list(range(1, len(stored)))


def past(bus: MemoryBus, *updates: MetricUpdate) -> None:
    """Make the metrics service answer that exactly these updates of model m were missed."""
    moments = [(u.arrival, to_us(parse_time(u.timestamp))) for u in updates]

    async def history(request):
        return History(moments=Moments.pack(moments), complete=True, position=request.position)

    async def recall(request):
        requested = request.moments.unpack()
        return Recalled(
            updates=[u for u in updates if u.arrival in dict(requested)], count=len(requested)
        )

    async def alerts(_request):
        return Alerts(alerts=[])

    bus.answer(HISTORY, history)
    bus.answer(RECALL, recall)
    bus.answer(LIST_ALERTS, alerts)


def sample(number: int) -> MetricUpdate:
    return MetricUpdate(
        model_id="m",
        timestamp=f"2026-01-01T00:{number // 60:02}:{number % 60:02}Z",
        metrics={f"n{number}": 1.0},
        arrival=(START + number) * 256 + 1,
    )


async def nothing() -> None: ...


async def test_a_client_that_reads_its_replay_too_slowly_delays_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replay, "REPLAY_READ_TIMEOUT_S", 0.05)
    current.set(Context(account="a"))
    bus, topic = MemoryBus(), Topic("a", "m")
    past(bus, sample(1))
    replays = Replay(bus)

    async def run(happen: Any) -> list[int]:
        client = Slow(topic, happen)
        topic.subscribers[client] = Subscriber(None, topic.count)
        topic.hold(topic.subscribers[client])
        start = Cursor(0, 0, [])
        await replays.run(client, SeenAlerts(), topic, since=start, with_cursor=True)
        return client.received

    slow = [asyncio.create_task(run(asyncio.Event().wait)) for _ in range(3)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await run(nothing) == [1]
        for error in await asyncio.gather(*slow, return_exceptions=True):
            assert isinstance(error, Unavailable)


class Waiting(Slow):
    """A client of an account that follows model m, and records the alerts that it gets too."""

    def __init__(self, bus: Any) -> None:
        super().__init__(Topic("a", "m"), nothing)
        self.topics = Topics(bus)
        self.topics.models["a", "m"] = self.topic
        self.account = self.topics.accounts["a"] = Account()
        self.seen = self.account.clients[self] = SeenAlerts()
        self.replays = Replay(bus)
        self.alerts: list[str] = []
        self.topic.subscribers[self] = Subscriber(None, 0)

    async def replay(self, *, with_cursor: bool = True) -> bool:
        subscriber = self.topic.subscribers[self]
        subscriber.change(None)
        self.topic.hold(subscriber)
        start = Cursor(0, 0, [])
        return await self.replays.run(
            self, self.seen, self.topic, since=start, with_cursor=with_cursor
        )

    async def alert(self, id: str) -> None:
        news = AlertEvent(
            id=id, model_id="m", type="slow", message="!", severity="warning", rule_id="r",
            at=parse_time("2026-01-01T00:00:00Z"),
        )  # fmt: skip
        await self.account.publish_alert(news, self.topic)

    def deliver_guaranteed(self, update, after="") -> None:
        if update.event == "alert":
            self.alerts.append(update.data["type"])
        else:
            super().deliver_guaranteed(update)


@pytest.fixture
def waiting() -> Waiting:
    current.set(Context(account="a"))
    bus: Any = MemoryBus()
    past(bus, sample(1))
    return Waiting(bus)


@pytest.mark.parametrize("when", ["before", "during the replay"])
async def test_what_arrives_after_a_gap_waits_for_the_replay(waiting: Waiting, when: str) -> None:
    async def lose() -> None:
        waiting.topics.lose()

    waiting.happen = lose if when == "during the replay" else nothing
    assert await waiting.replay()
    waiting.happen = nothing
    if when == "before":
        await lose()
    await waiting.topic.publish(sample(3))
    await waiting.alert("one")
    assert (waiting.received, waiting.alerts) == ([1], [])
    await waiting.replay()
    await waiting.topic.publish(sample(4))
    assert (waiting.received, waiting.alerts) == ([1, 3, 4], ["slow"])
    assert waiting.with_cursor == [True] * 3


async def test_a_client_that_ignores_a_gap_gets_what_arrives_later(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_module, "RESUBSCRIBE_TIMEOUT_S", 0.01)
    await waiting.replay()
    waiting.topics.lose()
    await waiting.topic.publish(sample(3))
    await waiting.alert("one")
    async with asyncio.timeout(10):
        while not waiting.alerts:
            await asyncio.sleep(0.01)
    await waiting.topic.publish(sample(4))
    assert waiting.received == [1, 3, 4]
    assert waiting.with_cursor == [True, False, False]


async def test_more_than_can_be_held_after_a_gap_is_delivered_at_once(waiting: Waiting) -> None:
    await waiting.replay()
    waiting.topics.lose()
    numbers = list(range(3, MAX_HELD + 3))
    for number in numbers:
        await waiting.topic.publish(sample(number))
    assert waiting.received == [1]
    await waiting.alert("one")
    assert (waiting.received, waiting.alerts) == ([1, *numbers], ["slow"])


async def test_a_wait_does_not_end_during_a_replay(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_module, "RESUBSCRIBE_TIMEOUT_S", 0.01)
    await waiting.replay()
    waiting.topics.lose()
    await waiting.topic.publish(sample(3))

    async def linger() -> None:
        await asyncio.sleep(0.1)
        assert waiting.received == [1]

    waiting.happen = linger
    await waiting.replay()
    assert waiting.received == [1, 3]
    assert waiting.with_cursor == [True, True]


@pytest.mark.parametrize(("whole", "alerts"), [(False, ["slow"]), (True, [])])
async def test_a_client_that_leaves_after_a_gap_gets_the_alerts_unless_it_left_the_account(
    waiting: Waiting, monkeypatch: pytest.MonkeyPatch, whole: bool, alerts: list[str]
) -> None:
    monkeypatch.setattr(topic_module, "RESUBSCRIBE_TIMEOUT_S", 0.01)
    await waiting.replay()
    waiting.topics.lose()
    await waiting.topic.publish(sample(3))
    await waiting.alert("one")
    if whole:
        waiting.topics.exit("a", waiting)
    assert waiting.topics.leave("a", "m", waiting)
    await asyncio.sleep(0.05)
    assert (waiting.received, waiting.alerts) == ([1], alerts)


class Closed:
    """A bus connection that was just lost, as only a write reveals."""

    async def flush(self, timeout: float) -> None:
        raise RuntimeError("the handler is closed")

    async def unsubscribe(self) -> None:
        raise RuntimeError("the handler is closed")


class ClosedBus:
    client = Closed()

    async def subscribe(self, *_args: Any, **_options: Any) -> Closed:
        return self.client


async def test_a_subscription_during_a_bus_loss_is_refused_and_forgotten() -> None:
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
