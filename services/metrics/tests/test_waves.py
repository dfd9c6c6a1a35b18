"""Waves that are seen once or twice, which a few days hardly tell from changes."""

import numpy as np
import pytest

from common.contracts.timestamps import to_us

from .test_recommendations import START, findings_of, history_of


@pytest.mark.parametrize(("period", "phase"), [(22.4, 2), (40.0, 3), (40.0, 5)])
def test_a_wave_that_is_seen_too_rarely_for_a_season_is_not_reported_as_changes(
    period: float, phase: float
) -> None:
    random = np.random.default_rng(5)
    hours = np.arange(3 * 288) / 12
    wave = np.sin(hours * 2 * np.pi / period + phase)
    value = 40 + 5 * wave + random.normal(size=len(hours))
    at = to_us(START) + np.arange(len(hours)) * 300_000_000
    assert findings_of(history_of(at, value)) == []
    value[400:460] += 12
    [event] = findings_of(history_of(at, value))
    assert (event.kind, event.end) == ("incident", at[460])


@pytest.mark.parametrize("seed", range(5))
def test_a_slow_rise_that_is_followed_by_a_slow_fall_is_reported_and_is_no_wave(seed: int) -> None:
    random = np.random.default_rng(seed)
    days = np.arange(4 * 288) / 288
    level = np.interp(days, [0, 0.8, 1.6, 2.4, 3.2, 4], [0, 0, 10, 10, 0, 0])
    at = to_us(START) + np.arange(len(days)) * 300_000_000
    assert findings_of(history_of(at, 40 + level + 2 * random.normal(size=len(days)))) != []
