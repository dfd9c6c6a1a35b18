"""Write which files and extra packages the tokenizers of the pinned transformers need.

    python libs/models/scripts/tokenizer_table.py

Each class is tried: on small files under the names that it knows, with the packages that every
family of modules for texts installs. The generator itself runs without transformers. Trying takes
half a minute; so the file says what it was made from, and a test whether that is still so.
"""

import hashlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

import sentencepiece
import transformers
from transformers import TokenizersBackend
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.models.auto import tokenization_auto as auto

from hub.families import WORDS

FILE = Path(__file__).parents[1] / "models/tokenizers.json"
# Packages that only some of the text families install.
SOMETIMES = ("sacremoses",)
SPECIAL = ("<s>", "</s>", "<pad>", "<unk>", "<mask>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# SentencePiece models differ in their training and in the ids of their special pieces.
MARKED = {"user_defined_symbols": ["<mask>", "<pad>", *SPECIAL[5:]], "model_type": "unigram"}
TRAINED: tuple[dict[str, Any], ...] = (
    MARKED,
    {**MARKED, "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "user_defined_symbols": []},
    {"model_type": "bpe", "byte_fallback": True},
)
TEXT = "frog a"


def of_the_library() -> dict[str, Any]:
    """Return the whole table: `classes` by name, `of` by `model_type`, and `corrected`.

    `of` has the class of each `model_type`; `corrected` names those whose own class is wrong.

    A class has the `files` that it cannot do without, `more` that it reads, `whole` if one
    tokenizer.json does as well, `text` if it reads plain text, and as `needs` the package that not
    every family installs.
    """
    tried = {name: attempt(chosen) for name, chosen in classes().items()}
    with mock.patch.dict(sys.modules, dict.fromkeys(SOMETIMES)):
        for name, chosen in classes().items():
            tried[name] |= {"needs": needed} if (needed := attempt(chosen).get("needs")) else {}
    named = {
        # Its own package reads Mistral's files; without that package the library does.
        kind: "TokenizersBackend" if name == "MistralCommonBackend" else name
        for kind, name in auto.TOKENIZER_MAPPING_NAMES.items()
        if name in {*tried, "MistralCommonBackend"}
    }
    return {
        "made_from": {"digest": recipe()},
        "classes": tried,
        "of": dict(sorted(named.items())),
        "corrected": dict.fromkeys(
            sorted(auto.MODELS_WITH_INCORRECT_HUB_TOKENIZER_CLASS & set(named)), True
        ),
    }


def recipe() -> str:
    """Hash everything that the file depends on: this program, and the libraries' versions."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for library in ("transformers", "tokenizers", "sentencepiece", "protobuf"):
        digest.update(f"{library} {version(library)}".encode())
    return digest.hexdigest()[:16]


def classes() -> dict[str, Any]:
    """Return the classes that a model's files may name, and those that the library chooses."""
    names = {
        name for name in dir(transformers) if re.fullmatch(r"(?!PreTrained)\w+Tokenizer", name)
    }
    names |= {name for name in auto.TOKENIZER_MAPPING_NAMES.values() if name}
    named = {name: auto.tokenizer_class_from_name(name) for name in sorted(names)}
    tokenizers = {name: chosen for name, chosen in named.items() if is_tokenizer(chosen)}
    return {**tokenizers, "TokenizersBackend": TokenizersBackend}


def is_tokenizer(chosen: Any) -> bool:
    try:
        return bool(getattr(chosen, "from_pretrained", None)) and hasattr(
            chosen, "vocab_files_names"
        )
    except ImportError:  # a placeholder for a class whose package is not installed
        return False


def attempt(chosen: Any) -> dict[str, Any]:
    known = set(chosen.vocab_files_names.values())
    own = sorted(known - {"tokenizer.json", "tokenizer_config.json"})
    whole = issubclass(chosen, TokenizersBackend)
    entry: dict[str, Any] = {"files": own, "more": [], "whole": whole, "text": True}
    for trained in TRAINED:
        try:
            vocabulary = load(chosen, own, trained)
        except ImportError as error:
            return {**entry, "needs": package(str(error))}
        except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
            # Errors that transformers' classes raise on files of another kind.
            reason = str(error)
            continue
        entry["more"] = [name for name in own if does_without(chosen, own, name, trained)]
        entry["files"] = [name for name in own if name not in entry["more"]]
        # Some have no vocabulary but that of one file, whose name they do not declare.
        return entry if vocabulary or own else {**entry, "files": ["tokenizer.model"]}
    return {**entry, "text": "Words must" not in reason and "required positional" not in reason}


def load(chosen: Any, names: Iterable[str], trained: dict[str, Any]) -> set[str]:
    """Load a tokenizer from small files; return its vocabulary without special tokens."""
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            write(Path(folder) / name, trained, counted="bpe.codes" in names)
        tokenizer = chosen.from_pretrained(folder)
        assert tokenizer(TEXT)["input_ids"]
        return set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)


def does_without(chosen: Any, names: list[str], name: str, trained: dict[str, Any]) -> bool:
    try:
        rest = load(chosen, [other for other in names if other != name], trained)
    except Exception:  # noqa: BLE001  (tokenizers raise whatever they like)
        return False
    return rest == load(chosen, names, trained)


def package(reason: str) -> str:
    match = re.search(r"(?:install|requires the) ([\w-]+)|^([\w-]+) is required", reason.strip())
    assert match, reason
    return (match[1] or match[2]).lower()


def write(path: Path, trained: dict[str, Any], *, counted: bool) -> None:
    pieces = words()
    rows = [f"{piece} 1" for piece in pieces] if counted else list(pieces)
    contents = {
        "bpe.codes": "f r 1\n",
        "byte_maps.json": json.dumps({"decompose_map": {}, "merge_map": {}}),
        "dict.txt": "".join(f"{piece} 1\n" for piece in pieces),
        "emoji.json": json.dumps({"emoji": {}, "emoji_inv": {}}),
        "entity_vocab.json": json.dumps({"[PAD]": 0, "[UNK]": 1, "[MASK]": 2, "[MASK2]": 3}),
        "merges.txt": "#version: 0.2\nf r\n",
    }
    if path.suffix in (".model", ".spm"):
        path.write_bytes(sentences(json.dumps(trained)))
    elif path.suffix == ".json" and path.name not in contents:
        path.write_text(json.dumps({piece: place for place, piece in enumerate(pieces)}))
    else:
        path.write_text(contents.get(path.name, "\n".join(rows)))


@cache
def words() -> tuple[str, ...]:
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    marked = [mark.format(letter) for letter in letters for mark in ("{}</w>", "##{}")]
    return tuple(dict.fromkeys([*SPECIAL, *bytes_to_unicode().values(), *marked, "fr", "Ġf", "▁"]))


@cache
def sentences(trained: str) -> bytes:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 20),
        model_writer=file,
        vocab_size=500,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **json.loads(trained),
    )
    return file.getvalue()


def as_lines(table: dict[str, dict[str, Any]]) -> str:
    """Encode JSON with a line per entry, so that a diff shows what a new version changed."""
    parts = [
        f"{json.dumps(name)}: {{\n"
        + ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in part.items())
        + "\n}"
        for name, part in table.items()
    ]
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    FILE.write_text(as_lines(of_the_library()), encoding="utf-8")
