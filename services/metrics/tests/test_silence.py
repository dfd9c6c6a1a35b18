"""Detection of models that reported regularly and stopped."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.contracts.timestamps import to_us
from common.postgres import Database
from common.testing import MemoryBus
from metrics.alerts import Watch
from metrics.rules import TAKE_TURNS

from .conftest import Caller, settled
from .test_alerts import add, alerts, record, sent


async def test_a_model_that_reported_regularly_and_stopped_is_silent(
    caller: Caller, bus: MemoryBus
) -> None:
    await caller.record(*(record(3_600 - 30 * n, latency=40.0) for n in range(60)))
    await caller.record({**record(3_600, latency=40.0), "model_id": "seldom"})
    # `look` finds nothing while the sweep is looking, which is about to find the same.
    while not (raised := await alerts(caller)):
        await caller.handlers.watch.look_for_silence()
    [alert] = raised
    assert (alert.type, alert.model_id) == ("silence", "m")
    while not sent(bus, caller.account):
        await asyncio.sleep(0.01)
    assert sent(bus, caller.account) == [("silence", "warning")]
    await caller.record(record(0, latency=40.0))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    assert ("silence_recovered", "info") in sent(bus, caller.account)


async def report(
    caller: Caller, database: Database, *, ago: float, behind: float = 0, together: int = 1
) -> None:
    """Store a sample a minute over ten hours, sent in batches by a clock `behind` seconds slow."""
    [series] = await caller.handlers.series.number(caller.account, [("m", "latency")])
    end = datetime.now(UTC) - timedelta(seconds=ago)
    async with database.connection() as connection:
        for n in range(600):
            sent = end - timedelta(minutes=n // together * together)
            await connection.execute(
                "insert into samples values (%s, %s, 1, %s)",
                [
                    series,
                    end - timedelta(minutes=n, seconds=behind),
                    to_us(sent) * 256,
                ],
            )


@pytest.mark.parametrize(
    ("habit", "after"),
    [
        ({"ago": 60, "behind": 5 * 3_600}, None),
        ({"ago": 60, "behind": 5 * 3_600}, 900),
        ({"ago": 60, "behind": 5 * 3_600, "together": 60}, 900),
        ({"ago": 1_800, "together": 60}, None),
    ],
)
async def test_a_recorder_with_its_usual_lag_is_not_silent(
    caller: Caller, database: Database, habit: dict[str, Any], after: int | None
) -> None:
    """Neither a slow clock nor the time between batches counts as silence."""
    if after:
        await add(caller, kind="silence", after=after)
    await report(caller, database, **habit)
    await caller.handlers.watch.look_for_silence()
    assert await alerts(caller) == []


async def test_a_silence_alert_is_raised_when_a_recorder_with_a_slow_clock_stops(
    caller: Caller, database: Database
) -> None:
    await report(caller, database, ago=1_800, behind=5 * 3_600)
    await caller.handlers.watch.look_for_silence()
    [alert] = await alerts(caller)
    assert "for 30 minutes" in alert.message


async def test_an_accounts_silence_rule_applies_after_the_seconds_it_states(caller: Caller) -> None:
    await add(caller, kind="silence", metric="latency", model_id="m", after=60, severity="info")
    await caller.record(record(90, latency=40.0), record(1, throughput=1.0))
    await caller.handlers.watch.look_for_silence()
    [alert] = await alerts(caller)
    assert (alert.type, alert.severity, alert.metric) == ("silence", "info", "latency")
    await caller.record(record(0, throughput=1.0))
    assert (await alerts(caller))[0].recovered_at is None, "that was another metric"


@pytest.mark.parametrize(
    "meanwhile",
    [
        "insert into samples select id, now(), 1 from series where account = %s",
        "delete from rules where account = %s",
    ],
)
async def test_no_silence_alert_is_raised_if_a_sample_arrives_or_the_rule_is_deleted_meanwhile(
    caller: Caller, database: Database, meanwhile: str
) -> None:
    await add(caller, kind="silence", after=60)
    await caller.record(record(90, latency=40.0))
    await settled(caller)
    async with database.connection() as connection:
        await connection.execute(TAKE_TURNS, [caller.account])
        sweep = asyncio.ensure_future(Watch(database, MemoryBus()).look_for_silence())
        await asyncio.sleep(0.2)
        assert not sweep.done()
        await connection.execute(meanwhile.encode(), [caller.account])
    await sweep
    assert await alerts(caller) == []
