"""Baselines of alerts, with daily and weekly seasons."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from common.contracts.alerts import NewRule
from common.contracts.reading import SamplesDeletion
from common.contracts.recording import METRICS_CHANGED, MetricsChanged
from common.contracts.timestamps import now_us
from common.postgres import Database
from common.testing import MemoryBus
from metrics.batch import Extremes
from metrics.handlers import Handlers

from .conftest import Caller
from .test_alerts import alerts, record

DAY_S = 86_400


def dips_daily(ago: float) -> bool:
    """Return whether a moment is in a daily dip of ten hours, which ends in three hours."""
    return (ago + 3 * 3_600) % DAY_S < 10 * 3_600


def dips_weekly(ago: float) -> bool:
    """Return whether a moment is in a weekly dip of two days, which ends in six hours."""
    return (ago + 6 * 3_600) % (7 * DAY_S) < 2 * DAY_S


@pytest.mark.parametrize(
    ("dips", "interval_s"), [(dips_daily, 900), (dips_weekly, 900), (dips_weekly, 3_600)]
)
async def test_a_seasonal_dip_raises_no_alert_but_an_incident_during_it_does(
    caller: Caller, dips: Callable[[float], bool], interval_s: int
) -> None:
    noise = np.random.default_rng(5)
    incident_s = 10 * interval_s

    def throughput(ago: float, level: float) -> dict[str, object]:
        usual = 56.0 if dips(ago) else 100.0
        return record(ago, throughput=level * usual * noise.normal(1, 0.03))

    count = 20 * DAY_S // interval_s
    before = [throughput(n * interval_s + incident_s, 1.0) for n in range(count, 0, -1)]
    await caller.record(*before)
    assert await alerts(caller) == []
    assert (await caller.monitor()).findings == []
    await caller.record(*(throughput(n * interval_s, 0.5) for n in range(10, 0, -1)))
    [alert] = await alerts(caller)
    [finding] = (await caller.monitor()).findings
    stated = re.search(
        r"is (\d+) % lower than usual: ([\d.]+) .*, usually ([\d.]+) ", alert.message
    )
    assert stated is not None
    share, now, usual = (float(number) for number in stated.groups())
    assert (share, now, usual) == pytest.approx((50, 28, 56), rel=0.1)
    assert (finding.kind, finding.metric, finding.end) == ("incident", "throughput", None)
    assert finding.size == pytest.approx(now - usual, rel=0.15)
    await caller.record(*(throughput(n, 1.0) for n in range(6, 0, -1)))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    assert alert.recovery is not None
    assert "usually 5" in alert.recovery


async def test_other_replicas_compute_baselines_anew_after_a_deletion_and_for_a_new_rule(
    caller: Caller, database: Database, bus: MemoryBus
) -> None:
    """A replica that misses the change uses the old baseline for up to an hour."""
    other = Handlers(database, MemoryBus(), max_series=200)
    wrong, right = 100.0, 40.0
    noise = np.random.default_rng(6)

    def levels(level: float, hours: range) -> list[dict[str, object]]:
        return [record(3_600 * n, latency=level * noise.normal(1, 0.02)) for n in hours]

    async def usual() -> float | None:
        """Return the baseline that the other replica uses."""
        at = now_us()
        await other.watch.evaluate(caller.account, {"m": {"latency": Extremes(1, at, 1, at, at)}})
        known = other.watch.baselines.get(caller.account, "m")
        return known["latency"].level if "latency" in known else None

    async def forward_changes() -> None:
        for subject, body in bus.published:
            if subject.startswith(METRICS_CHANGED.subject):
                await other.forget(MetricsChanged.model_validate_json(body.model_dump_json()))
        bus.published.clear()

    await caller.record(*levels(wrong, range(200, 0, -1)))
    assert await usual() == pytest.approx(wrong, rel=0.05)
    await caller.call(
        caller.handlers.delete_samples,
        SamplesDeletion.model_validate({"model_id": "m", "metric": "latency"}),
    )
    await caller.record(*levels(right, range(200, 0, -1)))
    assert await usual() == pytest.approx(wrong, rel=0.05), "known until the event comes"
    await forward_changes()
    assert await usual() == pytest.approx(right, rel=0.05)
    await caller.record(*(record(3_600 * n, steps=7.0 + n % 2) for n in range(200, 0, -1)))
    await caller.call(caller.handlers.add_rule, NewRule(kind="change", metric="steps", percent=5))
    await forward_changes()
    await usual()
    assert "steps" in other.watch.baselines.get(caller.account, "m")
