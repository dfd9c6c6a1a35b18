"""Completeness of a model's tokenizer: the files its class reads, and extra packages.

Without its vocabulary, a tokenizer of transformers may still load and turn any text into the same
tokens. `models.tables.tokenizers` lists what each class of the pinned transformers reads.
"""

from collections.abc import Collection, Mapping
from typing import Any

from packaging.utils import canonicalize_name

from generator import requirements
from generator.reasons import refuse
from models.tables import tokenizers
from models.tokenizers import WHOLE, class_of

# Packages that a tokenizer needs for a given value in its config.
ALSO = {
    "BertJapaneseTokenizer": (
        ("word_tokenizer_type", "mecab", "fugashi"),
        ("word_tokenizer_type", "sudachi", "sudachipy"),
        ("word_tokenizer_type", "jumanpp", "rhoknp"),
    ),
    "VitsTokenizer": (("is_uroman", True, "uroman"),),
}
# A config value that makes the usual extra package unnecessary.
UNLESS = {"VitsTokenizer": ("phonemize", False)}


def check(
    names: Collection[str],
    kind: Any,
    named: Any,
    config: Mapping[str, Any],
    stack: str,
    *,
    where: str = "",
) -> None:
    """Raise ModelRefused unless the stack's modules can load the tokenizer from these files.

    Args:
        names: the files in the tokenizer's folder.
        kind: the model's `model_type`, if it has one.
        named: the tokenizer's class, if the model's files name one.
        config: what `configs` leaves of tokenizer_config.json.
        stack: of the module.
        where: the folder, for the message; empty for the model's own.
    """
    name = class_of(kind, named)
    entry = tokenizers()["classes"][name]
    place = f" in {where}" if where else ""
    if not set(entry["files"]) <= set(names) and not (entry["whole"] and WHOLE in names):
        wanted = ([WHOLE] if entry["whole"] else []) + [" and ".join(entry["files"])]
        raise refuse(
            f"the model's tokenizer{place} ({name}) is not whole: it reads {' or '.join(wanted)}",
            "incomplete",
            "a revision, or a copy of the model, that has them",
        )
    needed = package(name, entry, config)
    if needed and canonicalize_name(needed) not in requirements.packages(stack):
        raise refuse(
            f"the model's tokenizer{place} ({name}) needs {needed}, which its modules do not "
            "install",
            "architecture",
            "a model whose tokenizer does without",
        )


def package(name: str, entry: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """Return the extra package that a tokenizer needs, or None."""
    for field, value, needed in ALSO.get(name, ()):
        if config.get(field) == value:
            return needed
    unless = UNLESS.get(name)
    if unless and config.get(unless[0]) is unless[1]:
        return None
    extra: str | None = entry.get("needs")
    return extra
