"""Who was away is told what arrived meanwhile, whatever times the samples have."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from common.contracts.monitoring import (
    EPOCH,
    Heard,
    HistoryRequest,
    MetricUpdate,
    RecallRequest,
    parse_time,
)
from common.errors import Unavailable
from common.postgres import Database
from common.testing import MemoryBus
from metrics import batch, history, writer
from metrics.handlers import Handlers

from .conftest import Caller

MICROSECOND = timedelta(microseconds=1)


async def told(bus: MemoryBus, count: int) -> list[MetricUpdate]:
    """What was told, when it is so much."""
    async with asyncio.timeout(60):
        while len(found := [body for subject, body in bus.published if "recorded" in subject]) < (
            count
        ):
            await asyncio.sleep(0.01)
    return found


async def missed(caller: Caller, **request: Any) -> list[str]:
    """The names of the metrics that arrived, in the order of arrival; a few at a time."""
    handlers = caller.handlers
    found = await caller.ask(handlers.history, HistoryRequest(model_id="m", **request))
    assert found.complete
    updates: list[MetricUpdate] = []
    told = 0
    while told < len(found.moments):
        asked = RecallRequest(model_id="m", moments=found.moments.part(told, told + 3))
        recalled = await caller.ask(handlers.recall, asked)
        updates += recalled.updates
        told += recalled.told
    assert [update.arrival for update in updates] == sorted(update.arrival for update in updates)
    return [name for update in updates for name in update.metrics]


async def record(caller: Caller, name: str, ago: timedelta | None = None) -> str:
    """One sample, of now or of some time ago; returns its time."""
    at = (datetime.now(UTC) - (ago or timedelta())).isoformat()
    while True:
        try:
            await caller.record({"modelId": "m", "timestamp": at, "metrics": {name: 1.0}})
        except Unavailable:  # a busy database: clients send it again
            await asyncio.sleep(0.1)
        else:
            return at


@pytest.mark.parametrize("ago", [timedelta(days=300), timedelta(hours=2), timedelta(seconds=1)])
async def test_what_came_late_is_told_once(caller: Caller, ago: timedelta) -> None:
    await record(caller, "long_ago", timedelta(days=30))
    last = await record(caller, "seen")
    await record(caller, "late", ago)
    new = await record(caller, "new")
    assert await missed(caller, since=last) == ["late", "new"]
    assert await missed(caller, since=new) == []
    moment = datetime.now(UTC)
    await record(caller, "later", ago)
    assert await missed(caller, since=moment) == ["later"]


async def test_what_is_ahead_of_its_time_hides_nothing(caller: Caller) -> None:
    last = await record(caller, "ahead", -timedelta(hours=5))
    await record(caller, "now")
    assert await missed(caller, since=last) == ["now"]


async def test_another_metric_of_the_last_moment_is_told(caller: Caller) -> None:
    last = await record(caller, "seen")
    await caller.record({"modelId": "m", "timestamp": last, "metrics": {"other": 1.0}})
    assert await missed(caller, since=last) == ["other"]


async def test_repeated_samples_did_not_arrive_again(caller: Caller) -> None:
    first = await record(caller, "seen")
    last = await record(caller, "last")
    await caller.record({"modelId": "m", "timestamp": first, "metrics": {"seen": 1.0}})
    assert await missed(caller, since=last) == []


@pytest.mark.parametrize("since", ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59Z"])
async def test_any_time_can_be_asked_for(caller: Caller, since: str) -> None:
    await record(caller, "one", timedelta(days=1))
    await record(caller, "two")
    expected = ["one", "two"] if since < "2" else []
    assert await missed(caller, since=parse_time(since)) == expected


@pytest.fixture
async def other(handlers: Handlers, database: Database) -> AsyncIterator[Handlers]:
    """Another replica."""
    made = Handlers(database, handlers.bus, most_series=2_000)
    handlers.series.most = 2_000
    work = asyncio.ensure_future(made.run())
    yield made
    work.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await work


async def test_whoever_leaves_at_any_moment_is_told_the_rest_without_a_gap_or_a_double(
    caller: Caller, other: Handlers, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas commit and tell in whatever order; some samples are late, some ahead."""
    monkeypatch.setattr(batch, "MOST_TOLD", 1_000)
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
    updates = await told(bus, count)
    names = [name for update in updates for name in update.metrics]
    assert sorted(names) == sorted(f"n{number}" for number in range(count))
    places: dict[int, tuple[int, int]] = {}
    floor = updates[0].arrival - 256_000_000
    for number, update in enumerate(updates, 1):
        at = (parse_time(update.timestamp) - EPOCH) // MICROSECOND
        places[update.arrival & 255] = (update.arrival, at)
        if number % 3 == 0 or number > count - 3:
            heard = Heard(floor=floor, alerted=0, places=list(places.values()))
            assert sorted(await missed(caller, heard=heard)) == sorted(names[number:])
    assert len(places) == 2


async def test_of_more_than_is_asked_for_the_newest_are_found_and_it_is_said(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = await record(caller, "seen")
    for number in range(9):
        await record(caller, f"n{number % 3}")
    handlers = caller.handlers
    for most, bound, names in ((4, 200_000, "n2 n0 n1 n2"), (10, 15, "n0 n1 n2"), (9, 200_000, "")):
        monkeypatch.setattr(history, "MOST_SAMPLES", bound)
        request = HistoryRequest(model_id="m", since=parse_time(last), most=most)
        found = await caller.ask(handlers.history, request)
        recalled = await caller.ask(
            handlers.recall, RecallRequest(model_id="m", moments=found.moments)
        )
        told = [name for update in recalled.updates for name in update.metrics]
        assert (told, found.complete) == (names.split() or ["n0", "n1", "n2"] * 3, not names)


async def test_what_does_not_fit_into_a_message_is_told_in_several(caller: Caller) -> None:
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
    found = await caller.ask(handlers.history, HistoryRequest(model_id="m", since=parse_time(last)))
    told, answers = 0, 0
    while told < len(found.moments):
        asked = RecallRequest(model_id="m", moments=found.moments.part(told, told + 1000))
        recalled = await caller.ask(handlers.recall, asked)
        assert len(recalled.model_dump_json()) < 1_000_000
        assert [len(update.metrics) for update in recalled.updates] == [64] * recalled.told
        told, answers = told + recalled.told, answers + 1
    assert (told, answers) == (200, 3)


async def test_what_was_committed_though_nobody_said_so_is_told(
    caller: Caller, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller is told to send it again, and then it is there already."""
    monkeypatch.setattr(writer, "LOOK", 0.05)
    await record(caller, "before")
    store, answers_are_lost = writer._store, True

    async def store_without_answer(*arguments: Any) -> Any:
        new = await store(*arguments)
        if answers_are_lost:
            raise psycopg.OperationalError("the connection was lost")
        return new

    monkeypatch.setattr(writer, "_store", store_without_answer)
    when = datetime.now(UTC).isoformat()
    mine = {"model_id": "m", "timestamp": when, "metrics": {"mine": 1.0}}
    for key in ("", f"{caller.account} key"):
        with pytest.raises(Unavailable):
            await caller.record({**mine, "metrics": {f"mine{len(key)}": 1.0}}, key=key)
    answers_are_lost = False
    for key in ("", f"{caller.account} key"):
        await caller.record({**mine, "metrics": {f"mine{len(key)}": 1.0}}, key=key)
    await record(caller, "after")
    updates = await told(bus, 4)
    await asyncio.sleep(0.2)
    names = sorted(name for update in updates for name in update.metrics)
    assert len(await told(bus, 4)) == 4
    assert len(names) == 4
    assert {"before", "after"} < set(names)
    # Whoever has heard what came later finds it all the same.
    later = next(update for update in updates if "after" in update.metrics)
    place = (later.arrival, (parse_time(later.timestamp) - EPOCH) // MICROSECOND)
    first = min(updates, key=lambda update: update.arrival)
    heard = Heard(floor=first.arrival, alerted=0, places=[place])
    assert len(await missed(caller, heard=heard)) == 2
