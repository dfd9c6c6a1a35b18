import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.contracts.alerts import Alert, AlertsRequest, NewRule, Rule, RuleRequest
from common.contracts.timestamps import now_us, to_text
from common.contracts.webhooks import NOTE, Occurrences, OccurrencesStored
from common.postgres import Database
from common.testing import MemoryBus
from metrics.alerts import Watch
from metrics.batch import Extremes
from metrics.handlers import Handlers
from metrics.rules import TAKE_TURNS

from .conftest import Caller, settled


def record(ago: float, **metrics: float) -> dict[str, Any]:
    """Return a record of some seconds ago."""
    when = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat()
    return {"model_id": "m", "timestamp": when, "metrics": metrics}


def record_at(microseconds: int, **metrics: float) -> dict[str, Any]:
    return {"model_id": "m", "timestamp": to_text(microseconds), "metrics": metrics}


async def usual(caller: Caller, metric: str, value: float, spread: float = 0.03) -> None:
    noise = random.Random(4)
    await caller.record(
        *(record(7_200 - 20 * n, **{metric: value * noise.gauss(1, spread)}) for n in range(200))
    )
    await settled(caller)


async def alerts(caller: Caller, **request: Any) -> list[Alert]:
    await settled(caller)
    answer = await caller.call(caller.handlers.list_alerts, AlertsRequest(**request))
    return list(answer.alerts)


async def add(caller: Caller, **rule: Any) -> Rule:
    added: Rule = await caller.call(caller.handlers.add_rule, NewRule(**rule))
    return added


def sent(bus: MemoryBus, account: str = "") -> list[tuple[str, str]]:
    """Return the type and severity of each published alert, of one account or all."""
    events = [(subject, body) for subject, body in bus.published if "alert" in subject]
    return [(news.type, news.severity) for subject, news in events if account in subject]


async def test_an_incident_raises_one_alert_and_recovers_once(
    caller: Caller, bus: MemoryBus
) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0, severity="critical")
    for value in (50.0, 150.0, 180.0, 160.0):
        await caller.record(record(0, latency=value))
        raised = await alerts(caller)
    assert [(alert.type, alert.severity) for alert in raised] == [("latency_threshold", "critical")]
    assert raised[0].message == "m: Latency is 150 ms, above 100 ms"
    assert raised[0].recovered_at is None
    await caller.record(record(0, latency=60.0))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    assert sent(bus, caller.account) == [
        ("latency_threshold", "critical"),
        ("latency_threshold_recovered", "info"),
    ]
    await caller.record(record(0, latency=170.0))
    assert len(await alerts(caller)) == 2, "it is another incident"


async def test_a_peak_within_one_call_raises_an_alert_that_has_recovered(
    caller: Caller, bus: MemoryBus
) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0)
    await caller.record(*(record(60 - n, latency=500.0 if n == 30 else 50.0) for n in range(60)))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    assert "500 ms" in alert.message
    assert [type for type, _ in sent(bus, caller.account)] == [
        "latency_threshold",
        "latency_threshold_recovered",
    ]


@pytest.mark.parametrize(
    ("metric", "worse", "type", "severity"),
    [
        ("latency", 1.5, "latency_regression", "warning"),
        ("latency", 2.5, "latency_regression", "critical"),
        ("throughput", 0.7, "throughput_regression", "warning"),
        ("throughput", 0.4, "throughput_regression", "critical"),
        ("cost_per_inference", 1.4, "cost_drift", "warning"),
    ],
)
async def test_values_worse_than_usual_raise_an_alert_by_default(
    caller: Caller, bus: MemoryBus, metric: str, worse: float, type: str, severity: str
) -> None:
    await usual(caller, metric, 40.0)
    assert await alerts(caller) == []
    for n in range(8):
        await caller.record(record(60 - n, **{metric: 40.0 * worse}))
        await settled(caller)
    # Enough for the worse values to become the usual ones, if they were mistaken for that.
    await caller.record(*(record(50 - n / 100, **{metric: 40.0 * worse}) for n in range(1_500)))
    [alert] = await alerts(caller)
    assert (alert.type, alert.severity, alert.recovered_at) == (type, severity, None)
    assert "than usual" in alert.message
    await caller.record(*(record(10 - n, **{metric: 40.0}) for n in range(6)))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    assert sent(bus, caller.account) == [(type, severity), (f"{type}_recovered", "info")]


@pytest.mark.parametrize(("metric", "better"), [("latency", 0.4), ("throughput", 2.5)])
async def test_values_better_than_usual_raise_no_alert(
    caller: Caller, metric: str, better: float
) -> None:
    await usual(caller, metric, 40.0)
    await caller.record(*(record(10 - n, **{metric: 40.0 * better}) for n in range(6)))
    assert await alerts(caller) == []


async def test_noise_raises_no_alert(caller: Caller) -> None:
    await usual(caller, "latency", 40.0, spread=0.3)
    noise = random.Random(5)
    await caller.record(*(record(30 - n, latency=40 * noise.gauss(1, 0.3)) for n in range(30)))
    assert await alerts(caller) == []


async def test_a_backfill_raises_no_alert(caller: Caller) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0)
    await caller.record(record(3 * 86_400, latency=500.0))
    await caller.record(record(3 * 86_400 + 1, latency=500.0), record(0, latency=50.0))
    assert await alerts(caller) == []


async def test_a_rule_of_one_model_does_not_apply_to_another(caller: Caller) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0, model_id="n")
    for model in "mn":
        await caller.record({**record(0, latency=150.0), "model_id": model})
    assert [alert.model_id for alert in await alerts(caller)] == ["n"]


@pytest.mark.parametrize(
    ("used", "severity"), [(14_000.0, None), (15_000.0, "warning"), (16_200.0, "critical")]
)
async def test_memory_above_nine_tenths_of_its_limit_raises_an_alert(
    caller: Caller, used: float, severity: str | None
) -> None:
    await caller.record(record(1, gpu_memory_usage=used, gpu_memory_limit=16_384.0))
    raised = [(alert.type, alert.severity) for alert in await alerts(caller)]
    assert raised == ([("gpu_memory_near_limit", severity)] if severity else [])


async def test_memory_that_oscillates_around_its_limit_is_one_incident(caller: Caller) -> None:
    for n, share in enumerate((0.905, 0.895, 0.91, 0.89, 0.905)):
        await caller.record(record(10 - n, gpu_memory_usage=share * 1_000, gpu_memory_limit=1_000))
        [alert] = await alerts(caller)
        assert alert.recovered_at is None
    await caller.record(record(0, gpu_memory_usage=870, gpu_memory_limit=1_000))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None


async def test_the_sweep_publishes_a_stored_alert_once(
    caller: Caller, database: Database, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0)

    async def die(*_: Any) -> None:
        raise RuntimeError

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "publish", die)
        await caller.record(record(0, latency=150.0))
        assert len(await alerts(caller)) == 1, "stored before it is sent"
    assert sent(bus, caller.account) == []
    others = [Watch(database, bus) for _ in range(3)]
    await asyncio.gather(*(other.publish("account = %s", [caller.account]) for other in others))
    assert sent(bus, caller.account) == [("latency_threshold", "warning")]


async def test_an_unreadable_alert_delays_no_other_alert(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    accounts: list[str] = []

    async def note(noted: Occurrences) -> OccurrencesStored:
        accounts.extend(occurrence.account for occurrence in noted.occurrences)
        return OccurrencesStored()

    bus.answer(NOTE, note)
    newer = f"{caller.account}_newer"
    async with database.connection() as connection:
        await connection.execute(
            "insert into rules (id, account, rule) values (%s, %s, %s)",
            [newer, newer, '{"kind": "silence", "origin": "own", "newer": true}'],
        )
        await connection.execute(
            "insert into alerts (id, account, model, rule, type, severity, message)"
            " values (%s, %s, 'm', 'r', 'newer', 'newer', 'newer')",
            [newer, newer],
        )
    await add(caller, kind="silence", metric="latency", model_id="m", after=60)
    await caller.record(record(90, latency=40.0))
    watch = caller.handlers.watch
    await watch.look_for_silence()
    await watch.publish("account like %s", [f"{caller.account}%"])
    # Accounts of other tests may have fallen silent as well.
    assert sent(bus, caller.account) == [("silence", "warning")]
    await watch.notices.deliver_all()
    assert caller.account in accounts
    assert newer not in accounts
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select noted from alerts where account = %s", [caller.account]
        )
        assert await cursor.fetchall() == [(1,)], "confirmed, so not reported again"


async def test_replicas_that_evaluate_simultaneously_raise_one_alert(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0)
    others = [Handlers(database, bus, max_series=200) for _ in range(4)]
    work = [asyncio.ensure_future(other.run()) for other in others]
    for n in range(3):
        for other in others:
            second = Caller(other)
            second.account = caller.account
            await second.record(record(n / 10, latency=150.0))
    await asyncio.gather(*(settled(Caller(other)) for other in others))
    for task in work:
        task.cancel()
    assert len(await alerts(caller)) == 1
    assert sent(bus, caller.account) == [("latency_threshold", "warning")]


async def test_a_recovered_peak_that_another_replica_evaluates_late_raises_no_second_alert(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0)
    start = now_us() - 10_000_000
    for second, value in ((0, 150.0), (1, 180.0), (2, 60.0)):
        await caller.record(record_at(start + second * 1_000_000, latency=value))
        await settled(caller)

    async def think_of(peak: float, at: int) -> None:
        late = Watch(database, bus)
        extremes = Extremes(50.0, at, peak, at, at + 5_000_000)
        await late.evaluate(caller.account, {"m": {"latency": extremes}})

    await think_of(180.0, start + 1_000_000)
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    await think_of(170.0, start + 3_000_000)
    assert len(await alerts(caller)) == 2, "that peak came afterwards"


@contextlib.asynccontextmanager
async def unwatched(caller: Caller, database: Database) -> AsyncIterator[Caller]:
    """A replica that stores samples and dies before their evaluation."""
    dies = Handlers(database, MemoryBus(), max_series=200)
    writing = asyncio.ensure_future(dies.writer.run())
    second = Caller(dies)
    second.account = caller.account
    yield second
    writing.cancel()


async def test_a_peak_after_a_recovered_one_raises_an_alert(
    caller: Caller, database: Database
) -> None:
    """The watch stores one peak per batch of samples, here that of the first incident."""
    await add(caller, kind="threshold", metric="latency", above=100.0)
    start = now_us() - 20_000_000
    for second, value in ((0, 190.0), (1, 60.0)):
        await caller.record(record_at(start + second * 1_000_000, latency=value))
        await settled(caller)
    async with unwatched(caller, database) as other:
        for second, value in ((2, 170.0), (3, 60.0)):
            await other.record(record_at(start + second * 1_000_000, latency=value))
    together = Extremes(60.0, start, 190.0, start, start + 3_000_000)
    await caller.handlers.watch.evaluate(caller.account, {"m": {"latency": together}})
    second, first = await alerts(caller)
    assert ("170 ms" in second.message, "190 ms" in first.message) == (True, True)
    assert None not in (first.recovered_at, second.recovered_at)


@pytest.mark.parametrize("kind", ["threshold", "change"])
async def test_a_sample_with_a_future_time_hides_no_other_sample(caller: Caller, kind: str) -> None:
    if kind == "threshold":
        await add(caller, kind="threshold", metric="x", above=100.0)
    metric = "x" if kind == "threshold" else "latency"
    await usual(caller, metric, 50.0)
    await caller.record(*(record(-3_600 - n, **{metric: 50.0}) for n in range(6)))
    await settled(caller)
    for n in range(20):
        await caller.record(record(20 - n, **{metric: 500.0}))
    [alert] = await alerts(caller)
    assert alert.recovered_at is None
    await caller.record(*(record(0.5 - n / 100, **{metric: 50.0}) for n in range(10)))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    await caller.record(*(record(0.2 - n / 100, **{metric: 500.0}) for n in range(10)))
    assert len(await alerts(caller)) == 2


async def test_a_recorder_whose_clock_is_ahead_raises_alerts(caller: Caller) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0)
    for n, value in enumerate((150.0, 150.0, 50.0, 150.0)):
        await caller.record(record(-7_200 - n, latency=value))
        await settled(caller)
    second, first = await alerts(caller)
    assert (first.recovered_at is None, second.recovered_at is None) == (False, True)


async def test_samples_of_a_dead_replica_are_evaluated_by_another(
    caller: Caller, database: Database
) -> None:
    await add(caller, kind="threshold", metric="latency", above=100.0)
    async with unwatched(caller, database) as other:
        await other.record(record(2, latency=150.0))
        await other.record(record(1, latency=50.0))
    assert await alerts(caller) == []
    for _ in range(2):
        await caller.handlers.watch.look_back()
        [alert] = await alerts(caller)
        assert alert.recovered_at is not None


@pytest.mark.parametrize("order", [1, -1])
async def test_a_rule_deleted_during_its_evaluation_leaves_no_open_alert(
    caller: Caller, database: Database, order: int
) -> None:
    rule = await add(caller, kind="threshold", metric="latency", above=100.0)
    quiet = Watch(database, MemoryBus())
    at = now_us()
    peak = {"m": {"latency": Extremes(150.0, at, 150.0, at, at)}}
    async with database.connection() as connection:
        await connection.execute(TAKE_TURNS, [caller.account])
        await connection.execute(
            "with s as (insert into series (account, model, metric) values (%s, 'm', 'latency')"
            " returning id) insert into samples (series, at, value) select id, now(), 150 from s",
            [caller.account],
        )
        work = [
            lambda: quiet.evaluate(caller.account, peak),
            lambda: caller.call(caller.handlers.remove_rule, RuleRequest(id=rule.id)),
        ][::order]
        tasks = []
        for task in work:
            tasks.append(asyncio.ensure_future(task()))
            await asyncio.sleep(0.1)
    await asyncio.gather(*tasks)
    assert await alerts(caller, open_only=True) == []


async def test_alerts_are_listed_newest_first_page_by_page(caller: Caller) -> None:
    await add(caller, kind="threshold", metric="x", above=0.0)
    for n in range(5):
        await caller.record({"model_id": f"m{n}", "metrics": {"x": 1.0}})
        await settled(caller)
    first = await alerts(caller, limit=2)
    second = await alerts(caller, limit=2, before=first[-1].id)
    assert [alert.model_id for alert in (*first, *second)] == ["m4", "m3", "m2", "m1"]
    assert [alert.model_id for alert in await alerts(caller, model_id="m0")] == ["m0"]
    assert await alerts(Caller(caller.handlers)) == []
