"""Changes of an account's metrics, which other replicas receive as events."""

from collections.abc import Awaitable
from typing import Any

import nats.errors
import pytest

from common.contracts.reading import SamplesDeletion
from common.contracts.recording import METRICS_CHANGED, MetricsChanged
from common.contracts.timestamps import now_us
from common.postgres import Database
from common.testing import MemoryBus
from metrics.batch import Extremes
from metrics.handlers import Handlers

from .conftest import Caller
from .test_alerts import add, record
from .test_descriptions import describe
from .test_rules import listed


@pytest.mark.parametrize(
    "error",
    [nats.errors.ConnectionClosedError(), nats.errors.OutboundBufferLimitError(), OSError("lost")],
)
async def test_a_committed_change_succeeds_although_its_event_cannot_be_published(
    caller: Caller, bus: MemoryBus, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Otherwise the caller would repeat the call, and have two rules."""
    publish = bus.publish

    async def refuse(event: Any, *body: Any) -> None:
        if event is METRICS_CHANGED:
            raise error
        await publish(event, *body)

    monkeypatch.setattr(bus, "publish", refuse)
    rule = await add(caller, kind="change", metric="steps", percent=5)
    assert [one for one in await listed(caller) if one.origin == "own"] == [rule]
    await describe(caller, "steps", 7.0, unit="steps")
    await caller.record(record(10, latency=1.0))
    deletion = SamplesDeletion.model_validate({"model_id": "m", "metric": "latency"})
    assert (await caller.call(caller.handlers.delete_samples, deletion)).deleted == 1


async def test_replicas_evict_only_what_a_change_makes_stale(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    """An account that keeps switching a unit must not make replicas recompute baselines."""
    other = Handlers(database, MemoryBus(), max_series=200)
    watch, usage, account = other.watch, other.usage, caller.account
    models = ["m", "n"]

    def of(model: str, ago: float, **metrics: float) -> dict[str, Any]:
        return {**record(ago, **metrics), "model_id": model}

    async def cache() -> None:
        at = now_us()
        noted = {model: {"latency": Extremes(1, at, 1, at, at)} for model in models}
        await watch.evaluate(account, noted)
        await usage.check(account, 1, late=False)
        bus.published.clear()

    async def stale(change: Awaitable[Any]) -> list[str]:
        """Return which caches of the other replica a change has evicted."""
        await cache()
        await change
        for subject, body in bus.published:
            if subject.startswith(METRICS_CHANGED.subject):
                await other.forget(MetricsChanged.model_validate_json(body.model_dump_json()))
        return [
            *watch.baselines.lacking(account, dict.fromkeys(models)),
            *(["descriptions"] if account not in watch.descriptions._cached else []),
            *(["usage"] if account not in usage._stored else []),
        ]

    def delete() -> Awaitable[Any]:
        deletion = SamplesDeletion.model_validate({"model_id": "n", "metric": "steps"})
        return caller.call(caller.handlers.delete_samples, deletion)

    for model in models:
        await caller.record(*(of(model, 3_600 * n, latency=7.0, steps=1.0) for n in range(60)))
    assert await stale(describe(caller, "latency", 7.0, unit="s")) == ["descriptions"]
    assert await stale(describe(caller, "latency", 7.0, unit="s")) == [], "nothing changed"
    assert await stale(delete()) == ["n", "usage"]
    assert await stale(add(caller, kind="threshold", metric="latency", above=9.0)) == []
    change = {"kind": "change", "metric": "steps", "percent": 5}
    assert await stale(add(caller, **change)) == models
    assert await stale(add(caller, **change, model_id="n")) == ["n"]
    earlier = bus.publish(METRICS_CHANGED, MetricsChanged(account=account), account, "metrics")
    assert await stale(earlier) == [*models, "descriptions", "usage"]
