"""Descriptions of an account's own metrics, and their effects."""

from typing import Any

import numpy as np
import pytest

from common.contracts.alerts import NewRule
from common.contracts.reading import SamplesRequest
from common.contracts.recording import MetricDescription, Record, Samples
from common.errors import InvalidRequest
from metrics.handlers import Handlers

from .conftest import Caller, settled
from .test_alerts import alerts, record


async def describe(caller: Caller, metric: str, value: float, **description: Any) -> None:
    """Record a metric with a description."""
    content = Samples.from_records([Record.model_validate(record(0, **{metric: value}))])
    described = {metric: MetricDescription(**description)}
    await caller.call(
        caller.handlers.record, content.model_copy(update={"descriptions": described})
    )


async def test_answers_and_alerts_follow_the_description_of_a_metric(
    caller: Caller, handlers: Handlers
) -> None:
    """By the name alone, fewer failures would be better, and the unit would be unknown."""
    other = Caller(handlers)
    noise = np.random.default_rng(2)
    await describe(caller, "failure", 40.0, kind="amount", unit="found", more_is_better=True)
    await settled(caller)
    for who in (caller, other):
        await who.call(handlers.add_rule, NewRule(kind="change", metric="failure", percent=20))
        levels = [100.0] * 60 + [40.0] * 40
        await who.record(
            *(record(3_600 * (100 - n), failure=level * noise.normal(1, 0.03))
              for n, level in enumerate(levels))
        )  # fmt: skip
        await who.record(*(record(60 - n, failure=20.0) for n in range(6)))
    trends = [(await who.monitor(metrics=["failure"])) for who in (caller, other)]
    assert [one.statistics["failure"].trend for one in trends] == ["degrading", "improving"]
    assert [one.statistics["failure"].unit for one in trends] == ["found", None]
    assert "worth keeping" not in trends[0].recommendations[0]
    assert " found on average" in trends[0].recommendations[0]
    assert [len(await alerts(who)) for who in (caller, other)] == [1, 0]
    samples = await caller.call(
        handlers.read_samples, SamplesRequest(model_id="m", metric="failure")
    )
    assert samples.unit == "found"


@pytest.mark.parametrize(
    ("kind", "value", "fault"),
    [("amount", -1.0, "tokens cannot be negative"), ("share", 1.5, "tokens is a share")],
)
async def test_an_impossible_value_of_a_described_metric_is_refused(
    caller: Caller, kind: str, value: float, fault: str
) -> None:
    await caller.record(record(2, tokens=value))
    with pytest.raises(InvalidRequest, match=fault):
        await describe(caller, "tokens", value, kind=kind)
    await caller.record(record(1, tokens=value))  # refused calls describe nothing
    await describe(caller, "tokens", 0.5, kind=kind)
    with pytest.raises(InvalidRequest, match=fault):
        await caller.record(record(0, tokens=value, other=value))
    await caller.record(record(0, tokens=1.0, other=value))
    await describe(caller, "tokens", value, kind="any")


async def test_a_description_without_values_is_refused(caller: Caller) -> None:
    """Otherwise an account could store any number of descriptions."""
    content = Samples.from_records([Record.model_validate(record(0, tokens=1.0))])
    described = {name: MetricDescription(unit="x") for name in ("tokens", "words")}
    request = content.model_copy(update={"descriptions": described})
    with pytest.raises(InvalidRequest, match=r"descriptions\.words: no record of this call"):
        await caller.call(caller.handlers.record, request)
    assert await caller.handlers.watch.descriptions.newest(caller.account) == {}


async def test_a_refused_call_stores_no_description(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caller.handlers.series, "max_series", 0)
    with pytest.raises(InvalidRequest, match="an account may record"):
        await describe(caller, "tokens", 1.0, unit="x")
    assert await caller.handlers.watch.descriptions.newest(caller.account) == {}
