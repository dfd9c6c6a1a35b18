"""The counted cache of every served decoder, against the bytes that transformers stores."""

import json
import sys
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from models import config as configs
from models.cache import UNKNOWN, cache_bytes

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import cache_table
import tiny

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


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", cache_table.MADE)
def test_the_cache_of_every_decoder_is_counted_to_the_byte(kind: str) -> None:
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
@pytest.mark.parametrize("kind", ["deepseek_v3", "gemma3_text", "gpt2", "mamba2"])
def test_the_table_matches_the_bytes_that_a_decoder_caches(kind: str) -> None:
    assert cache_table.kept(kind) == TABLE["kept"][kind]


def test_the_table_was_generated_with_the_pinned_libraries() -> None:
    made_from = TABLE["made_from"]["digest"]
    assert made_from == cache_table.recipe(), "run libs/models/scripts/cache_table.py"


def test_every_exception_names_a_served_architecture() -> None:
    exceptions = {*BOUNDED, *cache_table.NOT_MADE, *cache_table.WITH_STATES_UNCOUNTED, *UNKNOWN}
    assert exceptions <= set(cache_table.KINDS)
