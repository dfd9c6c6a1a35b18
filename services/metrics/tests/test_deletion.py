"""Recorded samples that are read back, and wrong ones that are deleted."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common.contracts.reading import (
    RecordedSamples,
    SamplesDeleted,
    SamplesDeletion,
    SamplesRequest,
)
from common.errors import InvalidRequest, MonitoringFailed, NotFound
from common.postgres import Database
from metrics import deletion, rollups, window
from metrics.usage import SAMPLE_BYTES

from .conftest import Caller

NOW = datetime.now(UTC).replace(microsecond=0)


def record(days: float, value: float, **more: Any) -> dict[str, Any]:
    at = (NOW - timedelta(days=days)).isoformat()
    return {"model_id": "m", "timestamp": at, "metrics": {"latency": value}, **more}


async def read(caller: Caller, **more: Any) -> RecordedSamples:
    request = SamplesRequest.model_validate({"model_id": "m", "metric": "latency", **more})
    answer = await caller.call(caller.handlers.read_samples, request)
    return RecordedSamples.model_validate_json(answer.model_dump_json())


async def delete(caller: Caller, **more: Any) -> int:
    request = SamplesDeletion.model_validate({"model_id": "m", **more})
    answer: SamplesDeleted = await caller.call(caller.handlers.delete_samples, request)
    return answer.deleted


def ago(days: float) -> datetime:
    return NOW - timedelta(days=days)


async def test_samples_are_read_back_exactly_in_pages_whether_staged_or_merged(
    caller: Caller, roll: Any
) -> None:
    values = [0.1 + 0.2, 1e-300, 9.87654321e99, 3.0, -0.0]
    days = [3.5, 3, 2.5, 0.1, 0.0]
    await caller.record(*(record(*pair) for pair in zip(days, values, strict=True)))
    await caller.record(record(1, 7.0, metrics={"throughput": 7.0}))
    for _ in range(2):
        pages, cursor = [], None
        while True:
            page = await read(caller, limit=2, cursor=cursor)
            pages.append(page.samples)
            cursor = page.next
            if cursor is None:
                break
        assert [len(page) for page in pages] == [2, 2, 1]
        read_back = [(sample.timestamp, sample.value) for page in pages for sample in page]
        assert read_back == [(ago(day), value) for day, value in zip(days, values, strict=True)]
        assert page.unit == "ms"
        within = await read(caller, **{"from": ago(3), "to": ago(0.1)})
        assert [sample.value for sample in within.samples] == values[1:3]
        await roll()


async def test_an_unrecorded_metric_and_another_accounts_model_are_not_found(
    caller: Caller,
) -> None:
    await caller.record(record(0, 1.0))
    stranger = Caller(caller.handlers)
    for act in (read, delete):
        with pytest.raises(NotFound, match="throughput was never recorded"):
            await act(caller, metric="throughput")
        with pytest.raises(NotFound):
            await act(stranger, metric="latency")
        with pytest.raises(InvalidRequest, match="to: must be later"):
            await act(caller, metric="latency", **{"from": ago(1), "to": ago(1)})


async def _leave(*_: Any) -> None: ...


@pytest.mark.parametrize("mended", [True, False], ids=["mended", "marked"])
async def test_answers_after_a_deletion_cover_only_the_remaining_samples(
    caller: Caller, database: Database, roll: Any, monkeypatch: pytest.MonkeyPatch, *, mended: bool
) -> None:
    """The samples are rolled up, staged and fresh, before and after the repair."""
    attribute = (deletion, "MARK", "select %s, %s") if mended else (rollups.Rollups, "mend", _leave)
    async with database.connection() as connection:
        row = await (await connection.execute("select timescale_schema() is null")).fetchone()
    if mended and row != (True,):
        pytest.skip("TimescaleDB has marks alone")
    monkeypatch.setattr(*attribute)
    good = [record(n / 40, 100.0 + n * n % 17 + n % 7) for n in range(800)]
    # Two days and a bit, in the midst of an hour at both ends.
    wrong = [record(9.13 + n / 90.5, 5_000.0 + n) for n in range(200)]
    first, last = ago(9.13 + 199 / 90.5), ago(9.13) + timedelta(microseconds=1)
    good = [
        sample for sample in good if not first <= datetime.fromisoformat(sample["timestamp"]) < last
    ]
    await caller.record(*good, *wrong[::2])
    await roll()
    await caller.record(*wrong[1::2], record(5, 1.0, metrics={"throughput": 9.0}))
    clean = Caller(caller.handlers)
    await clean.record(*good, record(5, 1.0, metrics={"throughput": 9.0}))
    await roll(rest=True)

    async def same() -> None:
        actual, expected = await caller.monitor(), await clean.monitor()
        for name, statistics in expected.statistics.items():
            assert actual.statistics[name].count == statistics.count
            for figure in ("mean", "p95", "minimum", "maximum", "total", "trend"):
                assert getattr(actual.statistics[name], figure) == getattr(statistics, figure)
        assert actual.plots == expected.plots
        assert actual.findings == expected.findings
        assert actual.warnings == []

    assert await delete(caller, metric="latency", **{"from": first, "to": last}) == 200
    await same()
    assert await delete(caller, metric="latency", **{"from": first, "to": last}) == 0
    with monkeypatch.context() as patched:
        patched.setattr(window, "MAX_EXACT", 0)
        await same()
    await roll()
    await same()
    assert (await caller.record(wrong[0])).duplicates == 0
    assert (await caller.monitor()).statistics["latency"].maximum == 5_000.0


async def test_a_deletion_of_all_metrics_frees_storage_and_returns_the_count(
    caller: Caller, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = caller.handlers.usage
    usage.max_bytes = 8 * SAMPLE_BYTES
    both = {"latency": 1.0, "throughput": 1.0}
    await caller.record(*(record(day, 0.0, metrics=both) for day in (4, 3, 0.2, 0.1)))
    await usage.flush()
    with pytest.raises(MonitoringFailed, match="storage is full"):
        await caller.record(record(0, 1.0))
    monkeypatch.setattr(deletion, "MAX_DELETED_SAMPLES", 5)
    with pytest.raises(InvalidRequest, match="at most 5 samples are deleted in a call"):
        await delete(caller)
    monkeypatch.undo()
    assert await delete(caller, **{"from": ago(3), "to": ago(0.1)}) == 4
    used = await caller.call(caller.handlers.storage, None)
    assert (used.samples, used.staged_samples) == (4, 2)
    await caller.record(record(0, 1.0))
    assert await delete(caller) == 5
    used = await caller.call(caller.handlers.storage, None)
    await usage.flush()
    assert (used.samples, used.staged_samples) == (0, 0)
    answer = await caller.monitor()
    assert answer.statistics["latency"].count == 0
    assert answer.statistics["latency"].mean is None


async def test_samples_deleted_before_they_were_counted_use_no_storage(caller: Caller) -> None:
    await caller.record(*(record(days, 1.0) for days in (0.03, 0.02, 0.01)))
    assert await delete(caller) == 3
    await caller.handlers.usage.flush()
    await caller.record(record(0, 1.0))
    await caller.handlers.usage.flush()
    assert (await caller.call(caller.handlers.storage, None)).samples == 1
