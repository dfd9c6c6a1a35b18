import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarker.statistics import autocorrelation, describe, drift, statistical_inefficiency


@pytest.mark.parametrize(("name", "needed"), [("p90", 64), ("p95", 130), ("p99", 662)])
def test_a_percentile_is_reported_only_with_its_minimum_number_of_samples(name, needed) -> None:
    values = np.arange(1.0, needed + 1)
    enough = describe(values)
    assert getattr(enough, name) == pytest.approx(np.percentile(values, int(name[1:])), rel=1e-12)
    assert name not in enough.missing
    short = describe(values[:-1])
    assert getattr(short, name) is None
    assert short.missing[name] == f"needs {needed} samples, got {needed - 1}"


def test_an_empty_sample_has_no_figures() -> None:
    nothing = describe([])
    assert (nothing.mean, nothing.median, nothing.p50, nothing.standard_deviation) == (None,) * 4
    two = describe([1.0, 3.0])
    assert (two.mean, two.median) == (2.0, 2.0)
    assert (two.standard_deviation, two.mean_interval) == (None, None)
    assert "3 samples" in two.missing["standardDeviation"]


def test_constant_times_have_an_interval_of_zero_width() -> None:
    described = describe([2.0] * 64)
    assert (described.mean_interval.low, described.mean_interval.high) == (2.0, 2.0)
    assert described.standard_deviation == 0


@given(
    st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=300),
    st.floats(1e-3, 1e3),
)
def test_intervals_contain_their_figure_and_scale_with_the_unit(values, scale) -> None:
    described = describe(values)
    assert described.mean_interval.low <= described.mean <= described.mean_interval.high
    assert described.median_interval.low <= described.median <= described.median_interval.high
    assert 1 <= described.effective_samples <= len(values)
    other = describe([value * scale for value in values])
    assert other.mean == pytest.approx(described.mean * scale, rel=1e-9)
    assert other.median_interval.high == pytest.approx(
        described.median_interval.high * scale, rel=1e-6
    )


def autoregressive(rng, rho: float, count: int) -> np.ndarray:
    noise = rng.normal(size=count + 100)
    series = np.empty_like(noise)
    series[0] = noise[0]
    for i in range(1, len(noise)):
        series[i] = rho * series[i - 1] + np.sqrt(1 - rho**2) * noise[i]
    return series[100:]


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5])
def test_autocorrelation_and_statistical_inefficiency_are_estimated_correctly(rho) -> None:
    rng = np.random.default_rng(7)
    estimates = [autocorrelation(autoregressive(rng, rho, 130)) for _ in range(200)]
    assert np.mean(estimates) == pytest.approx(rho, abs=0.03)
    long = autoregressive(rng, rho, 20_000)
    assert statistical_inefficiency(long) == pytest.approx((1 + rho) / (1 - rho), rel=0.1)


@pytest.mark.parametrize("rho", [0.0, 0.25, 0.5])
def test_intervals_have_their_nominal_coverage(rho) -> None:
    """The coverage of 600 series is accurate to about one per cent."""
    rng = np.random.default_rng(11)
    hits = np.zeros(2)
    for _ in range(600):
        described = describe(10 + autoregressive(rng, rho, 130))
        for place, interval in enumerate((described.mean_interval, described.median_interval)):
            hits[place] += interval.low <= 10 <= interval.high
    assert all(0.93 <= share <= 0.97 for share in hits / 600), hits / 600


def test_drift_is_distinguished_from_noise() -> None:
    rng = np.random.default_rng(3)
    noisy = 10 + rng.normal(size=200)
    change, real = drift(noisy)
    assert not real
    change, real = drift(noisy + np.linspace(0, 2, 200))
    assert real
    assert change == pytest.approx(2 / 10, rel=0.3)


def test_a_latency_never_drifts_below_zero() -> None:
    """A straight line through a few slow first calls would fall far below zero."""
    first_slow = np.full(64, 1.0)
    first_slow[:4] = 100.0
    change, _ = drift(first_slow)
    assert -1 < change < -0.8
    for seed in range(50):
        heavy = np.random.default_rng(seed).pareto(0.7, 64)[::-1] + 0.1
        assert drift(np.sort(heavy)[::-1])[0] > -1
