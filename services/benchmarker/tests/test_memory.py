import pytest

from benchmarker.memory import fit, foreseen, rungs, static_estimate
from benchmarker.search import GRID
from models.dtypes import MIB
from models.tasks import row

LLAMA_8B = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def estimate(tokens: int = 128, *, eager: bool = False, generates: bool = False) -> float:
    task = row("text-generation" if generates else "text-classification", "transformers")
    config = {"model_type": "llama", **LLAMA_8B}
    return static_estimate(config, task, tokens, 2, eager=eager, weights=0, shapes={})


def test_the_memory_estimate_includes_the_key_value_cache_and_an_eager_attention_matrix() -> None:
    cache = 131_072 * 192  # two numbers of 128 of 8 heads in 32 layers, of two bytes
    assert estimate(192, generates=True) - estimate(192) >= cache / MIB
    assert estimate(eager=True) - estimate() == pytest.approx(32 * 128 * 128 * 4 / MIB)


def test_a_pipeline_without_a_config_has_an_estimate_of_zero() -> None:
    task = row("text-to-image", "diffusers")
    assert static_estimate({}, task, 0, 4, eager=False, weights=2**30, shapes={"steps": [20]}) == 0


def test_a_line_is_fitted_to_the_memory_of_two_or_more_sizes() -> None:
    assert fit({1: 110.0}) is None
    base, slope = fit({1: 110.0, 2: 120.0, 8: 180.0})
    assert (base, slope) == (pytest.approx(100), pytest.approx(10))
    assert fit({1: 110.0, 2: 109.0}) == (110.0, 0.0)  # noise yields no negative slope


def test_memory_allocated_once_is_not_attributed_to_each_sample() -> None:
    base, slope = fit({1: 110.0, 2: 125.0, 4: 150.0, 8: 190.0, 16: 270.0})
    assert (base, slope) == (pytest.approx(110), pytest.approx(10))


def test_smaller_sizes_are_probed_before_a_large_size() -> None:
    assert rungs([1]) == [1]
    assert rungs([2, 1]) == [1, 2]
    assert rungs([64]) == [1, 2, 4, 8, 16, 64]
    assert rungs([3, 4096]) == [1, 2, 3, 4, 8, 16, 64, 256, 1024, 4096]
    assert rungs(GRID) == [*GRID]


def test_the_peak_of_a_size_that_cannot_fit_is_predicted() -> None:
    peaks = {1: 110.0, 2: 120.0}
    assert foreseen(50, peaks, 1000.0, (0, 0)) is None
    assert foreseen(200, peaks, 1000.0, (0, 0)) == pytest.approx(2100)
    # Before any size has run, only an estimate far beyond the memory counts.
    assert foreseen(10, {}, 1000.0, (100, 100)) is None
    assert foreseen(40, {}, 1000.0, (100, 100)) == 4100
