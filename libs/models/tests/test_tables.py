"""The generated tables match the pinned libraries."""

import json
import sys
from importlib import metadata
from pathlib import Path

from models import gguf
from models.tables import table, tokenizers

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import architecture_table
import llama_table
import tokenizer_table


def test_the_architectures_match_the_pinned_libraries() -> None:
    made_from = table()["made_from"]["digest"]
    assert made_from == architecture_table.recipe(), "run libs/models/scripts/architecture_table.py"


def test_the_tokenizers_match_the_pinned_libraries() -> None:
    made_from = tokenizers()["made_from"]["digest"]
    assert made_from == tokenizer_table.recipe(), "run libs/models/scripts/tokenizer_table.py"


def test_the_architectures_of_gguf_files_are_those_of_the_pinned_llama_cpp() -> None:
    assert json.loads(llama_table.FILE.read_text())["xllamacpp"] == metadata.version("xllamacpp")
    assert gguf.known() > gguf.WRITELESS
    for name in ("llama", "gemma4", "qwen3moe"):
        assert llama_table.is_known(name)
        assert gguf.writes(name)
    assert not llama_table.is_known("nonsense")
