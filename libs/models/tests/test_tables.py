"""The generated tables match the pinned libraries."""

import sys
from pathlib import Path

from models.tables import table, tokenizers

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
import architecture_table
import tokenizer_table


def test_the_architectures_match_the_pinned_libraries() -> None:
    made_from = table()["made_from"]["digest"]
    assert made_from == architecture_table.recipe(), "run libs/models/scripts/architecture_table.py"


def test_the_tokenizers_match_the_pinned_libraries() -> None:
    made_from = tokenizers()["made_from"]["digest"]
    assert made_from == tokenizer_table.recipe(), "run libs/models/scripts/tokenizer_table.py"
