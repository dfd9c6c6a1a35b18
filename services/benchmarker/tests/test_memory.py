import pytest

from benchmarker.memory import MIB, fit, foreseen, kv_cache_bytes, rungs, static_estimate
from benchmarker.search import GRID

LLAMA_8B = {
    "hidden_size": 4096,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "intermediate_size": 14336,
    "vocab_size": 128256,
}


def test_the_cache_of_a_known_model_is_exact() -> None:
    assert kv_cache_bytes(LLAMA_8B, 1, item=2) == 131_072
    assert 64 * kv_cache_bytes(LLAMA_8B, 4096, item=2) == 32 * 2**30


def test_layers_that_slide_keep_their_window_alone() -> None:
    config = {
        **LLAMA_8B,
        "sliding_window": 100,
        "layer_types": ["full_attention"] * 8 + ["sliding_attention"] * 24,
    }
    per_layer = 2 * 8 * 128 * 2
    assert kv_cache_bytes(config, 1000, item=2) == per_layer * (8 * 1000 + 24 * 100)


def test_the_estimate_grows_with_what_is_generated_and_with_written_out_attention() -> None:
    def estimate(**fields):
        known = {"tokens": 128, "new_tokens": None, "eager": False} | fields
        return static_estimate(
            LLAMA_8B, known["tokens"], known["new_tokens"], 2, eager=known["eager"], shapes={}
        )

    assert estimate(new_tokens=64) - estimate() > kv_cache_bytes(LLAMA_8B, 192, 2) / MIB
    assert estimate(eager=True) - estimate() == pytest.approx(32 * 128 * 128 * 2 / MIB)


def test_a_line_is_fitted_from_two_sizes_on() -> None:
    assert fit({1: 110.0}) is None
    base, slope = fit({1: 110.0, 2: 120.0, 8: 180.0})
    assert (base, slope) == (pytest.approx(100), pytest.approx(10))
    assert fit({1: 110.0, 2: 109.0}) == (110.0, 0.0)  # noise is no gain


def test_what_the_first_samples_set_up_is_no_samples_own() -> None:
    base, slope = fit({1: 110.0, 2: 125.0, 4: 150.0, 8: 190.0, 16: 270.0})
    assert (base, slope) == (pytest.approx(110), pytest.approx(10))


def test_smaller_sizes_run_first_so_that_a_large_one_can_be_foreseen() -> None:
    assert rungs([1]) == [1]
    assert rungs([2, 1]) == [1, 2]
    assert rungs([64]) == [1, 2, 4, 8, 16, 64]
    assert rungs([3, 4096]) == [1, 2, 3, 4, 8, 16, 64, 256, 1024, 4096]
    assert rungs(GRID) == [*GRID]


def test_the_estimate_of_what_sees_is_that_of_its_widest_stage() -> None:
    shrinking = {"hidden_sizes": [32, 64, 128], "image_size": 224, "patch_size": 4}
    pixels = {"pixel_values": [3, 224, 224]}
    estimate = static_estimate(shrinking, None, None, 4, eager=True, shapes=pixels)
    assert 3 < estimate < 6  # a ConvNeXt of this width took 4.4 MiB


def test_a_size_that_cannot_fit_is_foreseen() -> None:
    peaks = {1: 110.0, 2: 120.0}
    assert foreseen(50, peaks, 1000.0, (0, 0)) is None
    assert foreseen(200, peaks, 1000.0, (0, 0)) == pytest.approx(2100)
    # Before anything has run the estimate has to be far beyond.
    assert foreseen(10, {}, 1000.0, (100, 100)) is None
    assert foreseen(40, {}, 1000.0, (100, 100)) == 4100
