"""Alerts compare with what is usual at this time of the day and the week, as advice does."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from .conftest import Caller
from .test_alerts import alerts, record

DAY_S = 86_400


def dips_daily(ago: float) -> bool:
    """A batch of ten hours at the same time of each day; it goes on for three more hours."""
    return (ago + 3 * 3_600) % DAY_S < 10 * 3_600


def dips_weekly(ago: float) -> bool:
    """Two days of each week, as weekends are; the second has six more hours."""
    return (ago + 6 * 3_600) % (7 * DAY_S) < 2 * DAY_S


@pytest.mark.parametrize(
    ("dips", "interval_s"), [(dips_daily, 900), (dips_weekly, 900), (dips_weekly, 3_600)]
)
async def test_a_dip_that_comes_every_week_raises_no_alert_and_an_incident_in_it_does(
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
    told = re.search(r"is (\d+)% lower than usual: ([\d.]+) .*, usually ([\d.]+) ", alert.message)
    assert told is not None
    share, now, usual = (float(number) for number in told.groups())
    assert (share, now, usual) == pytest.approx((50, 28, 56), rel=0.1)
    assert (finding.kind, finding.metric, finding.end) == ("incident", "throughput", None)
    assert finding.size == pytest.approx(now - usual, rel=0.15)
    await caller.record(*(throughput(n, 1.0) for n in range(6, 0, -1)))
    [alert] = await alerts(caller)
    assert alert.recovered_at is not None
    assert alert.recovery is not None
    assert "usually 5" in alert.recovery
