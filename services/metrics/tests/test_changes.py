"""Changes of an account's metrics, which other replicas learn by an event."""

from typing import Any

import nats.errors
import pytest

from common.contracts.reading import SamplesDeletion
from common.contracts.recording import METRICS_CHANGED
from common.testing import MemoryBus

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
    """Otherwise the caller would repeat it, and have the rule twice."""
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
