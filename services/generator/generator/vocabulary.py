"""Whether a model's tokenizer is whole: the files that its class reads, and what it needs beside.

Without its vocabulary a tokenizer of transformers may still load, know nothing, and make the same
tokens of any text. `templates/tokenizers.json` has what the pinned transformers does, class by
class (services/generator/tests/vocabularies.py tries each).
"""

import json
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from packaging.utils import canonicalize_name

from generator import requirements
from generator.reasons import refuse

# One file in a form of its own, which any class of the library for fast tokenizers reads.
WHOLE = "tokenizer.json"
# What else some tokenizers need, by what their config says.
ALSO = {
    "BertJapaneseTokenizer": (
        ("word_tokenizer_type", "mecab", "fugashi"),
        ("word_tokenizer_type", "sudachi", "sudachipy"),
        ("word_tokenizer_type", "jumanpp", "rhoknp"),
    ),
    "VitsTokenizer": (("is_uroman", True, "uroman"),),
}
# And these do without what they need else.
UNLESS = {"VitsTokenizer": ("phonemize", False)}


def known() -> frozenset[str]:
    """The names of all files that a tokenizer may read, WHOLE among them."""
    classes = table()["classes"].values()
    return frozenset(name for one in classes for name in (*one["files"], *one["more"])) | {WHOLE}


def check(
    names: Collection[str],
    kind: Any,
    named: Any,
    config: Mapping[str, Any],
    family: str,
    *,
    where: str = "",
) -> None:
    """Raise ModelRefused unless modules of the family read these files' tokenizer.

    Args:
        names: the files in the tokenizer's folder.
        kind: the model's `model_type`, if it has one.
        named: the tokenizer's class, if the model's files name one.
        config: what `configs` leaves of tokenizer_config.json.
        family: of the module.
        where: the folder, for the message; empty for the model's own.
    """
    name = class_of(kind, named)
    one = table()["classes"][name]
    place = f" in {where}" if where else ""
    if not set(one["files"]) <= set(names) and not (one["whole"] and WHOLE in names):
        wanted = ([WHOLE] if one["whole"] else []) + [" and ".join(one["files"])]
        raise refuse(
            f"the model's tokenizer{place} ({name}) is not whole: it reads {' or '.join(wanted)}",
            "incomplete",
            "a revision, or a copy of the model, that has them",
        )
    needed = package(name, one, config)
    if needed and canonicalize_name(needed) not in requirements.packages(family):
        raise refuse(
            f"the model's tokenizer{place} ({name}) needs {needed}, which its modules do not "
            "install",
            "architecture",
            "a model whose tokenizer does without",
        )


def package(name: str, one: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """What the tokenizer needs that not every family for texts installs."""
    for field, value, needed in ALSO.get(name, ()):
        if config.get(field) == value:
            return needed
    unless = UNLESS.get(name)
    if unless and config.get(unless[0]) is unless[1]:
        return None
    found: str | None = one.get("needs")
    return found


def class_of(kind: Any, named: Any) -> str:
    """The class that transformers takes for a model, by its `model_type` and what its files name.

    As transformers.AutoTokenizer chooses it; a name that it does not know is none.
    """
    classes, of = table()["classes"], table()["of"]
    usual = of.get(kind) if isinstance(kind, str) else None
    if not isinstance(named, str) or not named:
        return usual or "TokenizersBackend"
    if usual == "TokenizersBackend" or (usual and kind in table()["corrected"]):
        return str(usual)
    plain = named.removesuffix("Fast")
    return next((name for name in (named, plain) if name in classes), "TokenizersBackend")


@cache
def table() -> dict[str, Any]:
    text = (files("generator") / "templates" / "tokenizers.json").read_text(encoding="utf-8")
    read: dict[str, Any] = json.loads(text)
    return read
