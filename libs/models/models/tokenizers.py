"""The tokenizer class that transformers chooses for a model."""

from typing import Any

from models.tables import tokenizers

# A complete tokenizer in one file, which any fast tokenizer class of the library reads.
WHOLE = "tokenizer.json"


def known() -> frozenset[str]:
    """Return the names of all files that a tokenizer may read, tokenizer.json among them."""
    classes = tokenizers()["classes"].values()
    return frozenset(name for entry in classes for name in (*entry["files"], *entry["more"])) | {
        WHOLE
    }


def class_of(kind: Any, named: Any) -> str:
    """Return the name of the class that transformers.AutoTokenizer would choose.

    Args:
        kind: the model's `model_type`, if it has one.
        named: the class that the model's files name; one that the library lacks is ignored.
    """
    classes, of = tokenizers()["classes"], tokenizers()["of"]
    usual = of.get(kind) if isinstance(kind, str) else None
    if not isinstance(named, str) or not named:
        return usual or "TokenizersBackend"
    if usual == "TokenizersBackend" or (usual and kind in tokenizers()["corrected"]):
        return str(usual)
    plain = named.removesuffix("Fast")
    return next((name for name in (named, plain) if name in classes), "TokenizersBackend")
