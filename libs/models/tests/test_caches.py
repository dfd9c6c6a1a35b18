"""The computed cache size of served decoders, compared with the bytes that transformers stores."""

import json
import sys
import tracemalloc
from pathlib import Path

import pytest
import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from models import config as configs
from models.cache import UNKNOWN, cache_bytes, kinds_of_layers

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import cache_table
import tiny

SMALL = {
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
TABLE = json.loads(cache_table.FILE.read_text())
# Decoders for which the count is an upper bound, and why.
BOUNDED = {
    "deepseek_v4": "it compresses all tokens but a window's",
    **dict.fromkeys(("hy_v4", "minimax_m3_vl_text"), "counted with an index in every layer"),
    **dict.fromkeys(("inkling_text", "inkling2_text"), "counted without its windows"),
    "mllama": "its layers of cross-attention keep nothing where no picture is shown",
    "recurrent_gemma": "it keeps its states to itself",
    "trocr": "counted with an encoder",
}


# Configs from before `layer_types`: the fields that then gave the kinds of the layers.
OLDER = {
    "lfm2": {"full_attn_idxs": [1]},
    "qwen2": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    "qwen3": {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", cache_table.MADE)
def test_the_counted_cache_of_a_decoder_is_exact_or_a_stated_upper_bound(kind: str) -> None:
    named = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]
    written = json.loads(tiny.config_of(kind).to_json_string(use_diff=False))
    read = configs.read({**written, "architectures": [named]})
    counted = cache_bytes(read, batch=cache_table.BATCH, tokens=cache_table.TOKENS, width=4)
    assert counted is not None
    if kind in BOUNDED:
        assert TABLE["kept"][kind] <= counted
    else:
        assert TABLE["kept"][kind] == counted


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OLDER)
def test_the_cache_of_a_config_without_layer_types_is_counted_to_the_byte(kind: str) -> None:
    config = transformers.AutoConfig.for_model(kind, **SMALL, **OLDER[kind])
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.inference_mode():
        cache = model(torch.full((2, 24), 7), use_cache=True).past_key_values
    read = configs.read({"model_type": kind, **SMALL, **OLDER[kind]})
    assert tiny.kept_bytes(cache) == cache_bytes(read, batch=2, tokens=24, width=4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["deepseek_v3", "gemma3_text", "gpt2", "mamba2"])
def test_the_table_matches_the_bytes_that_a_decoder_caches(kind: str) -> None:
    assert cache_table.kept(kind) == TABLE["kept"][kind]


def test_the_table_was_generated_with_the_pinned_libraries() -> None:
    made_from = TABLE["made_from"]["digest"]
    assert made_from == cache_table.recipe(), "run libs/models/scripts/cache_table.py"


def test_every_special_case_is_a_served_architecture() -> None:
    exceptions = {*BOUNDED, *cache_table.NOT_MADE, *cache_table.WITH_STATES_UNCOUNTED, *UNKNOWN}
    assert exceptions <= set(cache_table.KINDS)


def test_layers_of_two_kinds_are_counted_without_a_list_of_them() -> None:
    hostile = {"num_hidden_layers": 1_000_000, "attn_layer_period": 4, "attn_layer_offset": 1}
    tracemalloc.start()
    counts = kinds_of_layers(hostile)
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert counts is not None
    assert (counts["full_attention"], counts["linear_attention"]) == (250_000, 750_000)
    assert peak_bytes < 100_000
