from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from common.contracts.monitoring import EPOCH, MICROSECOND
from metrics.recommendations import recommend
from metrics.window import HOUR, History, bucket, spans

START = datetime(2026, 3, 1, tzinfo=UTC)


def history(*levels: tuple[int, float], noise: float = 0.05) -> History:
    """So many hours at each level, with a sample every ten minutes."""
    random = np.random.default_rng(3)
    means = np.repeat([level for _, level in levels], [6 * hours for hours, _ in levels])
    value = means * (1 + noise * random.normal(size=len(means)))
    at = (START - EPOCH) // MICROSECOND + np.arange(len(value)) * 600_000_000
    nothing = np.empty(0, np.int64)
    return History(bucket(spans(at, value), HOUR), nothing, nothing)


def test_there_is_nothing_to_say_of_a_model_that_does_well() -> None:
    steady = {name: history((700, 10.0)) for name in ("latency", "throughput", "memory_usage")}
    assert recommend(steady, {"memory_limit": 16_384.0}) == []
    assert recommend({}, {}) == []


@pytest.mark.parametrize("seed", range(20))
def test_noise_alone_is_never_a_regression(seed: int) -> None:
    random = np.random.default_rng(seed)
    at = (START - EPOCH) // MICROSECOND + np.arange(400) * 3_600_000_000
    nothing = np.empty(0, np.int64)
    noise = History(bucket(spans(at, random.lognormal(3, 1, 400)), HOUR), nothing, nothing)
    assert recommend({"latency": noise}, {}) == []


def test_a_regression_names_its_date_and_its_numbers() -> None:
    [sentence] = recommend({"latency": history((240, 40.0), (100, 55.0))}, {})
    assert sentence.startswith("Latency has been 3")
    assert "2026-03-11 00:00 UTC" in sentence
    assert "55" in sentence and "40" in sentence and " ms" in sentence  # noqa: PT018


def test_lower_throughput_is_a_regression_and_lower_latency_is_not() -> None:
    fell = history((240, 100.0), (100, 70.0))
    [sentence] = recommend({"throughput": fell}, {})
    assert "Throughput has been 30% lower" in sentence
    assert recommend({"latency": fell}, {}) == []


def test_costs_that_drift_are_told_in_dollars() -> None:
    [sentence] = recommend({"cost_per_inference": history((240, 1e-4), (100, 1.5e-4))}, {})
    assert "$0.00015" in sentence


def test_memory_near_its_limit_says_what_to_do() -> None:
    used = {"gpu_memory_usage": history((50, 15_000.0), noise=0.0)}
    [sentence] = recommend(used, {"gpu_memory_limit": 16_384.0})
    assert "15,000 of 16,384 MiB (92%)" in sentence
    assert recommend(used, {"gpu_memory_limit": 24_576.0}) == []
    assert recommend(used, {}) == []


@pytest.mark.parametrize(
    ("latest", "said"),
    [
        ({"batch_size": 1.0}, "Batch size 8 would be 60% cheaper"),
        ({"batch_size": 8.0}, None),
        ({"batch_size": 16.0}, None),  # a twentieth is not worth a change
        ({}, "Batch size 8 would be 20% cheaper"),
    ],
)
def test_a_cheaper_batch_size_comes_from_the_measured_curve(
    latest: dict[str, float], said: str | None
) -> None:
    curve = {f"cost_per_inference_batch_{size}": cost for size, cost in
             ((1, 1e-4), (8, 4e-5), (16, 4.2e-5))}  # fmt: skip
    found = recommend({"cost_per_inference": history((50, 5e-5), noise=0.0)}, {**curve, **latest})
    assert [sentence.partition(":")[0] for sentence in found] == ([said] if said else [])


async def test_the_answer_brings_them(caller: Any) -> None:
    now = datetime.now(UTC)
    await caller.record(
        {
            "model_id": "m",
            "timestamp": (now - timedelta(hours=1)).isoformat(),
            "metrics": {"gpu_memory_usage": 79_000.0, "gpu_memory_limit": 81_920.0},
        }
    )
    [sentence] = (await caller.monitor()).recommendations
    assert "79,000 of 81,920 MiB (96%)" in sentence
