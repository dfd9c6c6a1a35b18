import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from common.contracts.alerts import NewRule
from common.contracts.history import MetricUpdate
from common.contracts.monitoring import ModelsSelection
from common.contracts.recording import USUAL_METRICS, Record, Samples
from common.errors import InvalidRequest, NotFound
from common.faults import invalid
from common.postgres import Database, TimedConnection
from common.testing import MemoryBus
from metrics import batch
from metrics.handlers import Handlers

from .conftest import Caller, settled


def at(**ago: float) -> str:
    return (datetime.now(UTC) - timedelta(**ago)).isoformat()


async def test_a_recorded_sample_is_in_the_next_answer(caller: Caller) -> None:
    await caller.record({"model_id": "m", "metrics": {"latency": 12.5}})
    latency = (await caller.monitor()).statistics["latency"]
    assert (latency.count, latency.mean, latency.p95, latency.exact) == (1, 12.5, 12.5, True)


async def test_a_repeated_sample_counts_once(caller: Caller) -> None:
    when = at(minutes=3)
    for value in (1.0, 2.0):
        await caller.record({"model_id": "m", "timestamp": when, "metrics": {"latency": value}})
    latency = (await caller.monitor()).statistics["latency"]
    assert (latency.count, latency.mean) == (1, 1.0)


async def test_concurrent_calls_with_the_same_samples_store_each_once(caller: Caller) -> None:
    records = [
        {"model_id": "m", "timestamp": at(days=2, seconds=n), "metrics": {"a": n, "b": -n}}
        for n in range(200)
    ]
    shuffled = [records[n % 7 :: 1] + records[: n % 7] for n in range(20)]
    await asyncio.gather(*(caller.record(*order) for order in shuffled))
    statistics = (await caller.monitor(metrics=["a", "b"])).statistics
    assert [statistics[name].count for name in "ab"] == [200, 200]


async def test_a_request_repeated_with_its_idempotency_key_counts_once(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    other = Handlers(database, bus, max_series=200)
    work = asyncio.ensure_future(other.run())
    second = Caller(other)
    second.account = caller.account
    record = {"model_id": "m", "metrics": {"latency": 1.0}}
    keys = [f"{caller.account} {n}" for n in range(5)]
    await asyncio.gather(
        *(who.record(record, key=key) for key in keys * 4 for who in (caller, second)),
        *(caller.record(record) for _ in range(3)),
    )
    await caller.record(record, key=keys[0])
    work.cancel()
    assert (await caller.monitor()).statistics["latency"].count == 5 + 3


async def test_an_idempotency_key_repeated_after_a_day_is_another_request(
    caller: Caller, database: Database
) -> None:
    record, key = {"model_id": "m", "metrics": {"latency": 1.0}}, f"{caller.account} daily"
    for count in (1, 1, 2, 2):
        await caller.record(record, key=key)
        assert (await caller.monitor()).statistics["latency"].count == count
        if count == 1:
            async with database.connection() as connection:
                await connection.execute(
                    "update requests set stored_at = stored_at - interval '12 hours'"
                    " where key = %s",
                    [key],
                )


async def test_addresses_that_an_earlier_gateway_sends_name_the_model(caller: Caller) -> None:
    names = ["o/m", "https://huggingface.co/o/m", "https://hf.co/o/m/tree/main", "n"]
    records = [
        Record.model_validate({"model_id": name, "metrics": {"latency": value, "throughput": 1.0}})
        for value, name in enumerate("abcd", 1)
    ]
    sent = Samples.from_records(records).model_copy(update={"models": names})
    received = Samples.model_validate_json(sent.model_dump_json())
    await caller.call(caller.handlers.record, received)
    latency = (await caller.monitor("o/m")).statistics["latency"]
    assert (latency.count, latency.total) == (3, 6.0)
    assert (await caller.monitor("n")).statistics["latency"].total == 4.0
    listed = await caller.call(caller.handlers.list_models, ModelsSelection())
    assert {model.model_id for model in listed.models} == {"o/m", "n"}
    for name, found in (("o/m", [("o/m", ["latency", "throughput"])]), ("other", [])):
        one = await caller.call(caller.handlers.list_models, ModelsSelection(model_id=name))
        assert [(model.model_id, model.metrics) for model in one.models] == found


async def test_samples_without_a_time_never_count_as_duplicates(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    # Another replica whose clock shows the very same microseconds.
    other = Handlers(database, bus, max_series=200)
    work = asyncio.ensure_future(other.run())
    frozen = caller.handlers._clock._now()
    for handlers in (caller.handlers, other):
        handlers._clock._now = lambda: frozen
    second = Caller(other)
    second.account = caller.account
    record = {"model_id": "m", "metrics": {"latency": 1.0}}
    await asyncio.gather(*(who.record(record) for who in (caller, second) * 20))
    work.cancel()
    assert (await caller.monitor()).statistics["latency"].count == 40


@pytest.mark.parametrize(
    ("wrong", "path", "message"),
    [
        ({"timestamp": at(days=366)}, "timestamp", "is before .*Z, and no answer goes back"),
        ({"timestamp": "2000-01-01T00:00:00Z"}, "timestamp", "is the clock right"),
        ({"timestamp": "2026-01-31T12:00:00"}, "timestamp", "has no zone: end it with Z"),
        ({"metrics": {"val/loss": 1.0}}, "metrics.val/loss", "such as val_loss"),
        *(
            ({"metrics": {"other": -1.0, name: -1.0}}, "metrics", f"^{name} cannot be negative")
            for name in ("latency", "throughput", "gpu_memory_usage", "cost_per_inference_batch_8")
        ),
    ],
)
def test_an_impossible_record_is_refused_with_its_field_and_a_reason(
    wrong: dict[str, Any], path: str, message: str
) -> None:
    with pytest.raises(ValidationError) as refused:
        Record.model_validate({"model_id": "m", "metrics": {"latency": 1.0}, **wrong})
    [fault] = invalid(refused.value).details["fields"]
    assert fault["path"].startswith(path)
    assert re.search(message, fault["message"])


async def test_a_metric_of_unknown_kind_may_be_negative(caller: Caller) -> None:
    await caller.record({"model_id": "m", "metrics": {"reward": -1.0}})
    assert (await caller.monitor(metrics=["reward"])).statistics["reward"].mean == -1.0


async def test_the_answer_states_the_number_of_duplicates(caller: Caller) -> None:
    when = [at(minutes=3), at(minutes=2)]
    records = [{"model_id": "m", "timestamp": t, "metrics": {"a": 1.0, "b": 2.0}} for t in when]
    assert (await caller.record(*records[:1])).duplicates == 0
    assert (await caller.record(*records)).duplicates == 2
    assert (await caller.record(*records, *records)).duplicates == 8
    untimed = {"model_id": "m", "metrics": {"a": 1.0}}
    assert (await caller.record(untimed, untimed)).duplicates == 0


async def test_a_window_ends_with_the_newest_sample_and_warns_of_a_fast_clock(
    caller: Caller,
) -> None:
    ahead = datetime.now(UTC) + timedelta(hours=2)
    await caller.record({"model_id": "m", "metrics": {"latency": 1.0}})
    assert (await caller.monitor()).warnings == []
    await caller.record(
        {"model_id": "m", "timestamp": ahead.isoformat(), "metrics": {"latency": 3.0}}
    )
    answer = await caller.monitor()
    assert (answer.statistics["latency"].mean, answer.window.until) == (2.0, ahead)
    [warning] = answer.warnings
    assert "120 minutes ahead" in warning


async def test_a_metric_that_was_never_recorded_causes_a_warning(caller: Caller) -> None:
    await caller.record({"model_id": "m", "metrics": {"latency": 1.0}})
    answer = await caller.monitor(metrics=["latency", "latencyy"])
    assert answer.warnings == ["latencyy was never recorded for this model; its figures are null"]
    assert answer.statistics["latencyy"].mean is None


async def test_a_call_may_mix_records_with_and_without_times(caller: Caller) -> None:
    await caller.record(
        {"model_id": "m", "metrics": {"latency": 1.0}},
        {"model_id": "m", "timestamp": at(hours=2), "metrics": {"latency": 2.0}},
        {"model_id": "n", "metrics": {"latency": 4.0, "x": 1.0}},
    )
    assert (await caller.monitor("m")).statistics["latency"].total == 3.0
    assert (await caller.monitor("n")).statistics["latency"].total == 4.0


async def test_a_call_with_too_many_series_is_refused_and_not_stored(
    caller: Caller,
) -> None:
    await caller.record({"model_id": "m", "metrics": {"latency": 1.0}})
    many = [{"model_id": f"m{n}", "metrics": {"latency": 1.0}} for n in range(200)]
    with pytest.raises(InvalidRequest, match="200 series") as refused:
        await caller.record({"model_id": "m", "metrics": {"latency": 1.0}}, *many)
    assert refused.value.details == {"limit": 200}
    assert (await caller.monitor()).statistics["latency"].count == 1
    with pytest.raises(NotFound):
        await caller.monitor("m0")


async def test_another_accounts_model_is_not_found(handlers: Handlers) -> None:
    owner, other = Caller(handlers), Caller(handlers)
    await owner.record({"model_id": "m", "metrics": {"latency": 1.0}})
    answers = []
    for model in ("m", "never recorded"):
        with pytest.raises(NotFound) as refused:
            await other.monitor(model)
        answers.append(refused.value.to_wire())
    assert answers[0] == answers[1]


def updates(bus: MemoryBus) -> list[MetricUpdate]:
    return [body for subject, body in bus.published if "recorded" in subject]


async def test_recorded_values_are_published_before_their_caller_is_answered(
    caller: Caller, bus: MemoryBus
) -> None:
    when = at(seconds=5)
    await caller.record({"model_id": "m", "timestamp": when, "metrics": {"latency": 1.5, "x": 2.0}})
    [(subject, update)] = bus.published
    assert subject == f"event.metrics.recorded.{caller.account}.m"
    assert update.metrics == {"latency": 1.5, "x": 2.0}
    assert datetime.fromisoformat(update.timestamp) == datetime.fromisoformat(when)


async def test_a_large_call_publishes_the_values_of_its_newest_times_oldest_first(
    caller: Caller, bus: MemoryBus
) -> None:
    records = [
        {"model_id": "m", "timestamp": at(seconds=n), "metrics": {"latency": float(n)}}
        for n in range(100)
    ]
    await caller.record(*records)
    assert [update.metrics["latency"] for update in updates(bus)] == list(range(9, -1, -1))


async def test_a_large_call_publishes_the_newest_value_of_each_metric(
    caller: Caller, bus: MemoryBus
) -> None:
    records = [
        {"model_id": "m", "timestamp": at(seconds=n), "metrics": {f"m{n // 40}": float(n)}}
        for n in range(200)
    ]
    await caller.record(*records)
    newest = {name: value for update in updates(bus) for name, value in update.metrics.items()}
    assert newest == {f"m{n}": 40.0 * n for n in range(5)}
    assert len(updates(bus)) == 10 + 4


async def test_only_stored_samples_are_published_and_evaluated(
    caller: Caller, bus: MemoryBus
) -> None:
    rule = NewRule(kind="threshold", metric="latency", above=100.0)
    await caller.call(caller.handlers.add_rule, rule)
    when = [at(seconds=n) for n in (5, 4, 3)]

    def record(n: int, value: float) -> dict[str, object]:
        return {"model_id": "m", "timestamp": when[n], "metrics": {"latency": value}}

    await caller.record(record(0, 5.0))
    await caller.record(record(0, 999.0))
    await asyncio.gather(*(caller.record(record(1, 6.0)) for _ in range(5)))
    await caller.record(record(0, 999.0), record(2, 7.0), record(2, 999.0))
    for _ in range(3):
        await caller.record({"model_id": "m", "metrics": {"latency": 8.0}}, key=caller.account)
    assert [update.metrics["latency"] for update in updates(bus)] == [5.0, 6.0, 7.0, 8.0]
    assert (await caller.monitor()).statistics["latency"].maximum == 8.0
    await settled(caller)
    assert not [subject for subject, _ in bus.published if "alert" in subject]


async def test_an_answer_takes_few_round_trips_to_the_database(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a busy machine, a round trip costs more than its statement."""
    await caller.record({"model_id": "m", "metrics": dict.fromkeys(USUAL_METRICS, 1.0)})
    await caller.monitor()
    count, own, wait = 0, asyncio.current_task(), TimedConnection.wait

    async def counted(self: TimedConnection, *arguments: Any, **options: Any) -> Any:
        nonlocal count
        count += asyncio.current_task() is own  # and no background work
        return await wait(self, *arguments, **options)

    monkeypatch.setattr(TimedConnection, "wait", counted)
    await caller.monitor()
    # The connection's check, BEGIN, series, state of rollups, window, few samples and COMMIT; the
    # other three only set the connection's mode.
    assert count <= 10


async def test_an_answer_that_takes_too_long_omits_changes_with_a_warning(caller: Caller) -> None:
    """The statistics are known by then, so the answer is not a 503."""
    now = datetime.now(UTC)
    times = [(now - timedelta(hours=n)).isoformat() for n in range(120)]
    await caller.record(
        *(
            {"model_id": "m", "timestamp": time, "metrics": {"latency": 9.0 if n < 50 else 3.0}}
            for n, time in enumerate(times)
        )
    )
    whole = await caller.monitor()
    assert ([finding.kind for finding in whole.findings], whole.warnings) == (["step"], [])
    late = await caller.monitor(deadline=now.timestamp())
    assert (late.findings, late.recommendations) == ([], [])
    assert late.statistics["latency"].count == 120
    assert late.statistics["latency"].mean == whole.statistics["latency"].mean
    assert late.plots["latency"]["data"]
    [warning] = late.warnings
    assert warning == (
        "latency: no time was left to look for changes, so `trend`, `findings` and"
        " `recommendations` lack them; ask again, or for fewer `metrics` or `days`"
    )


@pytest.mark.parametrize("timed", [True, False])
def test_a_record_alone_is_unpacked_like_one_among_others(timed: bool) -> None:
    """Also if the others name their metrics in another order."""
    when = {"timestamp": datetime.now(UTC).isoformat()} if timed else {}
    one, other = (
        Record.model_validate({"model_id": model, "metrics": metrics, **when})
        for model, metrics in (
            ("m", {"b": 3.0, "a": 7.0, "c": -3.0}),
            ("n", {"c": -4.0, "b": 4.0, "a": 7.0}),
        )
    )

    def unpacked(model: str, now: int, *records: Record) -> Any:
        content = batch.unpack(Samples.from_records(records), batch.Clock(lambda: now), "a", "")
        found = zip(content.pairs, batch.extremes(content), strict=True)
        rows = zip(content.pair, content.at, content.value, content.timed, strict=True)
        return (
            {pair: extremes for pair, extremes in found if pair[0] == model},
            sorted(
                (content.pairs[pair], *row)
                for pair, *row in rows
                if content.pairs[pair][0] == model
            ),
        )

    extremes, rows = unpacked("m", 9, one)
    assert (extremes, rows) == unpacked("m", 9, one, other)
    assert [(*pair, value) for pair, _, value, _ in rows] == [
        ("m", "a", 7.0), ("m", "b", 3.0), ("m", "c", -3.0)
    ]  # fmt: skip
    assert unpacked("n", 10, other) == unpacked("n", 9, one, other)
