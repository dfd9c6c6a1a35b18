"""Replays of samples to a listener, by the time of their arrival."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from common.contracts.history import HistoryRequest, MetricUpdate, Position, RecallRequest
from common.contracts.timestamps import parse_time, to_us
from common.errors import Unavailable
from common.postgres import Database
from common.testing import MemoryBus
from metrics import batch, history, storage, writer
from metrics.handlers import Handlers

from .conftest import Caller

MICROSECOND = timedelta(microseconds=1)


async def published(bus: MemoryBus, count: int) -> list[MetricUpdate]:
    """Wait for a number of published updates, and return them."""
    async with asyncio.timeout(60):
        while len(updates := [body for subject, body in bus.published if "recorded" in subject]) < (
            count
        ):
            await asyncio.sleep(0.01)
    return updates


async def missed(caller: Caller, **request: Any) -> list[str]:
    """Replay in small pages; return the names of the metrics in order of arrival."""
    handlers = caller.handlers
    history = await caller.call(handlers.history, HistoryRequest(model_id="m", **request))
    assert history.complete
    updates: list[MetricUpdate] = []
    done = 0
    while done < len(history.moments):
        request = RecallRequest(model_id="m", moments=history.moments.part(done, done + 3))
        recalled = await caller.call(handlers.recall, request)
        updates += recalled.updates
        done += recalled.count
    assert [update.arrival for update in updates] == sorted(update.arrival for update in updates)
    return [name for update in updates for name in update.metrics]


async def record(caller: Caller, name: str, ago: timedelta | None = None) -> str:
    """Record a sample some time ago; return its time."""
    at = (datetime.now(UTC) - (ago or timedelta())).isoformat()
    while True:
        try:
            await caller.record({"modelId": "m", "timestamp": at, "metrics": {name: 1.0}})
        except Unavailable:  # a busy database: clients send it again
            await asyncio.sleep(0.1)
        else:
            return at


@pytest.mark.parametrize("ago", [timedelta(days=300), timedelta(hours=2), timedelta(seconds=1)])
async def test_a_late_sample_is_replayed_once(caller: Caller, ago: timedelta) -> None:
    await record(caller, "long_ago", timedelta(days=30))
    last = await record(caller, "seen")
    await record(caller, "late", ago)
    new = await record(caller, "new")
    assert await missed(caller, since=last) == ["late", "new"]
    assert await missed(caller, since=new) == []
    moment = datetime.now(UTC)
    await record(caller, "later", ago)
    assert await missed(caller, since=moment) == ["later"]


async def test_a_sample_with_a_future_time_does_not_hide_later_arrivals(caller: Caller) -> None:
    last = await record(caller, "ahead", -timedelta(hours=5))
    await record(caller, "now")
    assert await missed(caller, since=last) == ["now"]


async def test_another_metric_recorded_at_the_last_seen_time_is_replayed(caller: Caller) -> None:
    last = await record(caller, "seen")
    await caller.record({"modelId": "m", "timestamp": last, "metrics": {"other": 1.0}})
    assert await missed(caller, since=last) == ["other"]


async def test_repeated_samples_have_no_second_arrival(caller: Caller) -> None:
    first = await record(caller, "seen")
    last = await record(caller, "last")
    await caller.record({"modelId": "m", "timestamp": first, "metrics": {"seen": 1.0}})
    assert await missed(caller, since=last) == []


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_arrivals_can_be_requested_since_any_time(caller: Caller, since: str) -> None:
    await record(caller, "one", timedelta(days=1))
    await record(caller, "two")
    expected = ["one", "two"] if since < "2" else []
    assert await missed(caller, since=parse_time(since)) == expected


@pytest.fixture
async def other(handlers: Handlers, database: Database) -> AsyncIterator[Handlers]:
    """A second replica."""
    replica = Handlers(database, handlers.bus, max_series=2_000)
    handlers.series.max_series = 2_000
    work = asyncio.ensure_future(replica.run())
    yield replica
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def test_a_listener_that_leaves_at_any_moment_gets_the_rest_without_gap_or_duplicate(
    caller: Caller, other: Handlers, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas commit and publish in any order; some samples have past or future times."""
    monkeypatch.setattr(batch, "MAX_PUBLISHED", 1_000)
    callers = [caller, Caller(other)]
    callers[1].account = caller.account
    choose = random.Random(7)
    ages = (0.0, 0.0, 0.0, 0.5, 90.0, 7_000.0, -30.0)

    async def send(number: int) -> None:
        await asyncio.sleep(choose.random() * 0.3)
        ago = timedelta(seconds=choose.choice(ages))
        await record(callers[number % 2], f"n{number}", ago)

    count = 60
    await asyncio.gather(*(send(number) for number in range(count)))
    updates = await published(bus, count)
    names = [name for update in updates for name in update.metrics]
    assert sorted(names) == sorted(f"n{number}" for number in range(count))
    places: dict[int, tuple[int, int]] = {}
    floor = updates[0].arrival - 256_000_000
    for number, update in enumerate(updates, 1):
        at = to_us(parse_time(update.timestamp))
        places[update.arrival & 255] = (update.arrival, at)
        if number % 3 == 0 or number > count - 3:
            position = Position(floor=floor, alerted=0, places=list(places.values()))
            assert sorted(await missed(caller, position=position)) == sorted(names[number:])
    assert len(places) == 2


async def test_too_many_arrivals_are_cut_to_the_newest_and_reported_as_incomplete(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await record(caller, "seen")
    for number in range(9):
        await record(caller, f"n{number % 3}")
    handlers = caller.handlers
    cases = ((4, 200_000, "n2 n0 n1 n2"), (10, 15, "n0 n1 n2"), (9, 200_000, ""))
    for limit, bound, names in cases:
        monkeypatch.setattr(history, "MAX_SAMPLES", bound)
        request = HistoryRequest(model_id="m", since=parse_time(last), limit=limit)
        arrived = await caller.call(handlers.history, request)
        recalled = await caller.call(
            handlers.recall, RecallRequest(model_id="m", moments=arrived.moments)
        )
        metrics = [name for update in recalled.updates for name in update.metrics]
        assert metrics == (names.split() or ["n0", "n1", "n2"] * 3)
        assert arrived.complete == (not names)


async def test_a_replay_too_large_for_one_message_is_split(caller: Caller) -> None:
    last = await record(caller, "seen")
    names = [f"{'long' * 14}_{n}" for n in range(64)]
    moments = [
        {
            "modelId": "m",
            "timestamp": (datetime.now(UTC) + timedelta(milliseconds=n)).isoformat(),
            "metrics": dict.fromkeys(names, 1e300 / 3e200),
        }
        for n in range(200)
    ]
    await caller.record(*moments)
    handlers = caller.handlers
    history = await caller.call(
        handlers.history, HistoryRequest(model_id="m", since=parse_time(last))
    )
    done, answers = 0, 0
    while done < len(history.moments):
        request = RecallRequest(model_id="m", moments=history.moments.part(done, done + 1000))
        recalled = await caller.call(handlers.recall, request)
        assert len(recalled.model_dump_json()) < 1_000_000
        assert [len(update.metrics) for update in recalled.updates] == [64] * recalled.count
        done, answers = done + recalled.count, answers + 1
    assert (done, answers) == (200, 3)


async def test_a_commit_without_an_acknowledgement_is_published(
    caller: Caller, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told to retry, and the retry finds the sample stored."""
    monkeypatch.setattr(writer, "FIRST_LOOK_S", 0.05)
    await record(caller, "before")
    store, answers_are_lost = storage.store, True

    async def store_without_answer(*arguments: Any) -> Any:
        new = await store(*arguments)
        if answers_are_lost:
            raise psycopg.OperationalError("the connection was lost")
        return new

    monkeypatch.setattr(storage, "store", store_without_answer)
    when = datetime.now(UTC).isoformat()
    sent = {"model_id": "m", "timestamp": when, "metrics": {"mine": 1.0}}
    for key in ("", f"{caller.account} key"):
        with pytest.raises(Unavailable):
            await caller.record({**sent, "metrics": {f"mine{len(key)}": 1.0}}, key=key)
    answers_are_lost = False
    for key in ("", f"{caller.account} key"):
        await caller.record({**sent, "metrics": {f"mine{len(key)}": 1.0}}, key=key)
    await record(caller, "after")
    updates = await published(bus, 4)
    await asyncio.sleep(0.2)
    names = sorted(name for update in updates for name in update.metrics)
    assert len(await published(bus, 4)) == 4
    assert len(names) == 4
    assert {"before", "after"} < set(names)
    # A listener that has received later samples finds it all the same.
    later = next(update for update in updates if "after" in update.metrics)
    place = (later.arrival, to_us(parse_time(later.timestamp)))
    first = min(updates, key=lambda update: update.arrival)
    position = Position(floor=first.arrival, alerted=0, places=[place])
    assert len(await missed(caller, position=position)) == 2
