"""The generated tables: architectures of the pinned libraries, and the files of their tokenizers.

`libs/models/scripts` writes them; the services run without those libraries.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def table() -> dict[str, Any]:
    """Read `architectures.json`; libs/models/scripts/architecture_table.py describes it."""
    return _read("architectures.json")


def architectures() -> dict[str, list[str]]:
    """Return the `model_type` values that the pinned transformers loads, by tag.

    Also the architectures of timm and the pipelines of diffusers, by library.
    """
    known: dict[str, list[str]] = table()["served"]
    return known


@cache
def tokenizers() -> dict[str, Any]:
    """Read `tokenizers.json`; libs/models/scripts/tokenizer_table.py describes it."""
    return _read("tokenizers.json")


def _read(name: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((files("models") / name).read_text(encoding="utf-8"))
    return read
