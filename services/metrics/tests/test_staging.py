"""Samples more than a day old, which are staged, visible at once, and merged later."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from common.contracts.recording import Record, Samples
from common.errors import MonitoringFailed, RateLimited, Unavailable
from common.postgres import Connection, Database
from metrics import rollups, storage, turns, window, writer
from metrics.snapshot import begin_snapshot
from metrics.usage import SAMPLE_BYTES

from .conftest import Caller, until

STORE = storage.store


def record(days: float, value: float = 1.0, **more: Any) -> dict[str, Any]:
    at = datetime.now(UTC) - timedelta(days=days)
    return {"model_id": "m", "timestamp": at.isoformat(), "metrics": {"latency": value}, **more}


async def count_read(connection: Connection) -> int:
    """Count the samples that this connection has read recently, also in earlier transactions."""
    cursor = await connection.execute(
        "select coalesce(sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0)), 0)::integer"
        " from pg_stat_xact_user_tables where relname ~ '^(samples|_hyper)'"
    )
    [(count,)] = await cursor.fetchall()
    return int(count)


async def count_staged(database: Database, caller: Caller) -> int:
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select count(*) from staged join series on id = series where account = %s",
            [caller.account],
        )
        [(count,)] = await cursor.fetchall()
    return int(count)


@dataclass
class Held:
    """Backfills whose commits wait until they are released."""

    caller: Caller
    released: asyncio.Event = field(default_factory=asyncio.Event)
    stored: list[int] = field(default_factory=list)

    async def store(self, connection: Connection, calls: Any, arrival: int) -> Any:
        self.stored += [len(rows) for rows, _ in calls]
        await self.released.wait()
        return await STORE(connection, calls, arrival)

    def call(self, caller: Caller, count: int, patience_s: float) -> Any:
        """Record late samples for a caller that waits for some time."""
        records = (record(3 + n / 1_000) for n in range(count))
        content = Samples.from_records(map(Record.model_validate, records))
        deadline = time.time() + patience_s
        return caller.call(caller.handlers.record, content, deadline=deadline)

    async def send(
        self, count: int, patience_s: float, caller: Caller | None = None
    ) -> asyncio.Task[Any]:
        """Send a call, and wait until it is being committed or queued."""
        backfill = self.caller.handlers.backfill
        sent = asyncio.create_task(self.call(caller or self.caller, count, patience_s))
        await until(
            lambda: count in [*self.stored, *(len(one.rows) for one in backfill._queue)],
            "the call is queued",
        )
        return sent


async def test_statistics_of_old_samples_are_the_same_before_and_after_merging(
    caller: Caller, database: Database, roll: Any
) -> None:
    old = [record(20 + n / 500, float(n % 7)) for n in range(5_000)]
    await caller.record(*old, record(0, 3.0))
    assert await count_staged(database, caller) == 5_000
    before = (await caller.monitor()).statistics["latency"]
    await roll()
    assert await count_staged(database, caller) == 0
    after = (await caller.monitor()).statistics["latency"]
    assert before == after
    assert before.count == 5_001


async def test_an_old_sample_counts_once_whether_it_is_staged_or_merged(
    caller: Caller, roll: Any
) -> None:
    old = record(3)
    assert (await caller.record(old)).duplicates == 0
    assert (await caller.record(old)).duplicates == 1
    await roll()
    assert (await caller.record(old, record(3.1))).duplicates == 1
    await roll()
    assert (await caller.monitor()).statistics["latency"].count == 2


async def test_an_old_sample_recorded_while_its_day_is_merged_counts_once(
    caller: Caller, roll: Any
) -> None:
    old = [record(5 + n / 2_000) for n in range(1_000)]

    async def send() -> None:
        for first in range(0, 1_000, 50):
            await caller.record(*old[first : first + 100])

    sending = asyncio.gather(send(), send())
    while not sending.done():
        await roll()
        await asyncio.sleep(0.01)
    await sending
    await roll()
    assert (await caller.monitor()).statistics["latency"].count == 1_000


async def test_a_day_is_merged_before_days_marked_later(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A continuous backfill does not delay another account's late day."""
    monkeypatch.setattr(rollups, "MAX_DAYS", 1)
    backfill = Caller(caller.handlers)
    await caller.record(record(2))
    await backfill.record(*(record(day) for day in range(4, 30)))
    async with database.connection() as connection:
        await connection.execute(
            "update stale set since = since - interval '1 hour' where series = any ("
            " select id from series where account = any(%s))",
            [[caller.account, backfill.account]],
        )
    async with database.connection() as connection:
        await connection.set_autocommit(True)
        rolling = await rollups.load(connection)
        waited = 0
        while await count_staged(database, caller):
            assert await rolling.repair()
            waited += 26 - await count_staged(database, backfill)
    assert waited == 0


async def test_an_answer_reads_no_more_samples_than_it_needs(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without statistics of new samples, the planner would read and sort all of them."""
    monkeypatch.setattr(window, "MAX_RAW", 500)
    few = [record(0.5, model_id=f"{n}") for n in range(150)]
    await caller.record(*few)
    async with database.connection() as connection:
        await connection.execute("analyze samples")
    await caller.record(*(record(n / 50_000) for n in range(40_000)))
    async with database.connection() as connection:
        await begin_snapshot(connection)
        numbers = await caller.handlers.series.of_model(connection, caller.account, "m")
        since = datetime.now(UTC) - timedelta(days=30)
        before = await count_read(connection)
        await window.read(connection, list(numbers.values()), since, summed=True)
        count = await count_read(connection) - before
    assert 500 <= count < 5_000


async def test_a_live_sample_does_not_wait_for_a_backfill(
    caller: Caller, database: Database
) -> None:
    async with database.connection() as connection:
        # Simulates a slow backfill: it waits for this transaction.
        await connection.execute("lock table staged in access exclusive mode")
        backfill = asyncio.ensure_future(caller.record(record(3)))
        await asyncio.sleep(0.2)
        await caller.record(record(0))
        assert not backfill.done()
    await backfill


async def test_an_answer_warns_of_staged_samples_too_many_to_read(
    caller: Caller, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window, "MAX_RAW", 500)
    day = datetime.now(UTC).replace(hour=1) - timedelta(days=20)
    ago = (datetime.now(UTC) - day) / timedelta(days=1)
    await caller.record(*(record(ago - n / 100_000) for n in range(800)), record(0.01))
    answer = await caller.monitor(metrics=["latency"])
    assert answer.statistics["latency"].count == 1
    [warning] = answer.warnings
    assert warning.startswith("latency: samples from ")
    assert "still being summed up" in warning
    await roll()
    answer = await caller.monitor(metrics=["latency"])
    assert (answer.statistics["latency"].count, answer.warnings) == (801, [])


async def test_a_day_with_too_many_late_samples_is_answered_from_its_rollup(
    caller: Caller, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Samples less than a day old are stored at once, and mark the day as stale."""
    await caller.record(*(record(0.8 + n / 10_000) for n in range(800)))
    await roll()
    await caller.record(record(0.85, 2.0))
    monkeypatch.setattr(window, "MAX_RAW", 100)
    answer = await caller.monitor(metrics=["latency"])
    assert answer.statistics["latency"].count == 800
    assert len(answer.warnings) == 1
    await roll()
    assert (await caller.monitor()).statistics["latency"].count == 801


async def test_many_days_that_are_not_rolled_up_are_read_no_further_than_one_answer_can(
    caller: Caller, database: Database, roll: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each day alone would be read; millions of samples in all of them took over 8 s."""
    await caller.record(record(0))
    async with database.connection() as connection:
        await connection.execute(
            "with days as (select id, date_trunc('day', now(), 'UTC') - n * interval '1 day' as day"
            " from series, generate_series(2, 9) as n), marked as (insert into stale (series, day)"
            " select id, day from days)"
            " insert into samples (series, at, value) select id, day + m * interval '1 minute', 1"
            " from days, generate_series(1, 40) as m"
        )
    monkeypatch.setattr(window, "MAX_RAW", 200)
    answer = await caller.monitor(metrics=["latency"])
    assert answer.statistics["latency"].count == 1 + 2 * 40, "the newest two days"
    assert len(answer.warnings) == 1
    await roll()
    answer = await caller.monitor(metrics=["latency"])
    assert (answer.statistics["latency"].count, answer.warnings) == (1 + 8 * 40, [])


async def test_late_samples_above_the_limit_of_an_account_are_refused_until_others_are_merged(
    caller: Caller, roll: Any
) -> None:
    caller.handlers.usage.max_staged = 10
    await caller.record(*(record(3 + n / 100) for n in range(10)))
    with pytest.raises(RateLimited, match="10 of at most 10; retry in") as refused:
        await caller.record(record(4))
    assert refused.value.details == {"limit": 10}
    await caller.record(record(0))
    await Caller(caller.handlers).record(record(4))
    await roll()
    await caller.record(record(4))


async def test_samples_above_an_accounts_storage_limit_are_refused(
    caller: Caller, database: Database
) -> None:
    usage = caller.handlers.usage
    usage.max_bytes = 10 * SAMPLE_BYTES
    old = record(3)
    await caller.record(old, *(record(n / 10_000) for n in range(7)))
    await caller.record(old)  # is stored already, and takes no room
    await usage.flush()
    used = await caller.call(caller.handlers.storage, None)
    assert (used.samples, used.bytes, used.max_bytes) == (8, 800, 1_000)
    assert (used.staged_samples, used.series) == (1, 1)
    with pytest.raises(MonitoringFailed) as refused:
        await caller.record(*(record(n / 10_000, model_id="n") for n in range(3)))
    assert refused.value.message == (
        "the account's storage is full: 800 of 1,000 bytes are used, and these samples need 300;"
        " delete samples, ask the operator for more, or wait until old samples expire"
    )
    assert refused.value.details == {"reason": "storage_full", "limit": 1_000}
    await Caller(caller.handlers).record(*(record(0.1 * n) for n in range(10)))
    await caller.record(*(record(1 / 10_000 + n / 1_000) for n in range(2)))
    async with database.connection() as connection:
        await connection.execute(
            "update usage set samples = 0 where account = %s", [caller.account]
        )
    usage._stored.clear()
    await caller.record(*(record(n / 10_000) for n in range(3)))


@pytest.fixture
def held(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> Held:
    """Backfills, each call in a group of its own, whose commits wait until they are released."""
    held = Held(caller)
    monkeypatch.setattr(storage, "store", held.store)
    monkeypatch.setattr(writer, "MAX_GROUP_ROWS", 1)
    # Of the commits that are held.
    monkeypatch.setattr(writer, "COMMIT_TIMEOUT_S", 60.0)
    return held


async def test_a_late_record_is_stored_before_backfills_whose_callers_wait_longer(
    held: Held,
) -> None:
    calls = [await held.send(20, 8.0), await held.send(30, 60.0), await held.send(1, 30.0)]
    held.released.set()
    await asyncio.gather(*calls)
    assert held.stored == [20, 1, 30]


async def test_a_backfill_that_would_outlast_its_caller_is_refused_at_once(held: Held) -> None:
    """A caller would have no answer, and would not know when to send the call again."""
    backfill = held.caller.handlers.backfill
    first = await held.send(20, 900.0)
    await until(lambda: held.stored, "the first call is being committed")
    backfill._row_s = 3.0
    patient = await held.send(30, 900.0)
    for account, error in ((held.caller, RateLimited), (Caller(held.caller.handlers), Unavailable)):
        with pytest.raises(error) as refused:
            await held.call(account, 1, 20.0)
        assert 20 <= (refused.value.retry_after or 0) <= 60
    # Nor does a pause, as long as the last group took, outlast a caller.
    assert 0 < backfill._pause_s(1_000.0) <= 900.0 - 2 * 30 * 3.0
    # A group that has taken its time is nearly done.
    backfill._committing_since -= 60.0
    late = await held.send(1, 20.0)
    held.released.set()
    await asyncio.gather(first, patient, late)
    assert backfill._pause_s(100.0) == 100.0


async def test_a_backfill_delays_the_calls_of_its_account_rather_than_those_of_others(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_ROWS", 1)
    backfill = held.caller.handlers.backfill
    first = await held.send(20, 900.0)
    await until(lambda: held.stored, "the first call is being committed")
    backfill._row_s = 10.0
    second, third = await held.send(21, 900.0), await held.send(22, 900.0)
    other = await held.send(30, 900.0, Caller(held.caller.handlers))
    with pytest.raises(RateLimited, match="other calls"):  # sooner than it would time out
        await third
    another = await held.send(7, 900.0, Caller(held.caller.handlers))
    held.released.set()
    await asyncio.gather(first, second, other, another)
    assert held.stored == [20, 30, 7, 21]


async def test_a_backfill_that_fills_the_queue_leaves_room_for_other_accounts(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_ROWS", 1)
    monkeypatch.setattr(writer, "MAX_QUEUED_ROWS", 40)
    first = await held.send(20, 60.0)
    await until(lambda: held.stored, "the first call is being committed")
    second, third = await held.send(21, 60.0), await held.send(22, 60.0)
    with pytest.raises(RateLimited, match="other calls"):
        await held.call(held.caller, 9, 60.0)
    other = await held.send(23, 60.0, Caller(held.caller.handlers))
    held.released.set()
    with pytest.raises(RateLimited, match="other calls"):
        await third
    await asyncio.gather(first, second, other)
    assert held.stored == [20, 23, 21]


async def test_a_late_record_that_arrives_during_a_pause_need_not_wait_for_its_end(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller.handlers.backfill, "pause_factor", 1e6)
    await caller.record(record(3))
    async with asyncio.timeout(60):
        await Held(caller).call(caller, 1, 2.0)


async def test_each_call_of_a_group_is_answered_although_the_database_fails(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a faulty call, the group is stored call by call, until the database fails."""
    monkeypatch.setattr(writer, "MAX_GROUP_ROWS", 100)
    first = await held.send(1, 60.0)
    await until(lambda: held.stored, "the first call is being committed")
    together = [await held.send(count, 60.0) for count in (2, 3)]
    groups = []

    async def store(_: Connection, calls: Any, arrival: int) -> Any:
        groups.append(len(calls))
        raise psycopg.errors.LockNotAvailable if len(calls) == 1 else ValueError

    monkeypatch.setattr(storage, "store", store)
    held.released.set()
    await first
    async with asyncio.timeout(30):
        for call in together:
            with pytest.raises(Unavailable):
                await call
    assert groups == [2, 1]
