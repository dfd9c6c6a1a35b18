"""The longest text that an encoder reads, against the library's own tables of positions."""

import re
from pathlib import Path

import pytest
import torch
import transformers

from models import config as configs
from models import sizes
from models.tables import architectures
from models.tasks import LIBRARIES

LIMIT = 40
SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": LIMIT,
    "pad_token_id": 1,
    "entity_vocab_size": 8,
    "entity_emb_size": 8,
}
SERVED = set(architectures()["text-classification"]) | set(architectures()["feature-extraction"])


def counting_from_the_padding() -> list[str]:
    """Return the served architectures whose source counts positions from the padding token's id."""
    sources = Path(transformers.__file__).parent.glob("models/*/modeling_*.py")
    kinds = set()
    for source in sources:
        text = source.read_text(encoding="utf-8")
        if re.search(r"def create_position_ids_from_input_ids|padding_idx \+ 1", text):
            kind = source.stem.removeprefix("modeling_")
            kinds |= {kind, kind.replace("_", "-")} & SERVED
    return sorted(kinds)


def longest(kind: str) -> int:
    """Return the number of tokens that a small model of this kind reads at most."""
    known = type(transformers.AutoConfig.for_model(kind))
    config = known(**{name: value for name, value in SMALL.items() if hasattr(known(), name)})
    model = transformers.AutoModel.from_config(config).eval()
    read = sizes.max_tokens_of(
        configs.read(config.to_dict()), LIBRARIES["transformers"]["text-classification"]
    )
    assert read
    with torch.inference_mode():
        model(input_ids=torch.full((1, read), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, read + 1), 5))
    return read


# Others read boxes beside the text, name a language, or rotate their positions.
@pytest.mark.parametrize("kind", sorted(sizes.SHIFTED - {"esm", "layoutlmv3", "lilt", "xmod"}))
def test_an_encoder_that_counts_from_its_padding_token_reads_two_tokens_fewer(kind: str) -> None:
    assert longest(kind) == LIMIT - 2


@pytest.mark.parametrize("kind", ["bert", "electra", "mra"])
def test_any_other_encoder_reads_as_many_tokens_as_it_has_positions(kind: str) -> None:
    assert longest(kind) == LIMIT


def test_each_encoder_that_counts_from_its_padding_token_is_listed() -> None:
    found = counting_from_the_padding()
    assert "roberta" in found
    assert set(found) <= sizes.SHIFTED
