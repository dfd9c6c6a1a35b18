"""Repositories whose model lies in several folders: which folders a module needs.

diffusers names its components in model_index.json, sentence-transformers its modules in
modules.json. Each library also loads classes of the model's author from there; such a model is
refused.
"""

import re
from dataclasses import dataclass
from typing import Any

import orjson

from common.errors import ModelRefused

INDEXES = {"model_index.json": "diffusers", "modules.json": "sentence-transformers"}
# More than any pipeline has; each is a configuration to read.
MOST_FOLDERS = 24
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# What model_index.json may name beside the two libraries: parts of diffusers itself.
PARTS = {"diffusers", "transformers", "stable_diffusion", "shap_e", "wan", "flux"}
CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
MODULE = re.compile(r"sentence_transformers(?:\.[a-z_]{1,64}){0,6}\.[A-Za-z]{1,64}")


@dataclass(frozen=True)
class Layout:
    """`folders` are those of the model's parts, "" the root; `pipeline` a class of diffusers."""

    library: str | None = None
    folders: tuple[str, ...] = ("",)
    pipeline: str | None = None


def read(name: str, content: bytes) -> Layout:
    """The layout that an index describes. Raises ModelRefused: nonsense, or code of its author."""
    try:
        index = orjson.loads(content)
    except orjson.JSONDecodeError:
        index = None
    layout = _components(index) if name == "model_index.json" else _modules(index)
    if len(layout.folders) > MOST_FOLDERS or not all(
        folder == "" or FOLDER.fullmatch(folder) for folder in layout.folders
    ):
        raise ModelRefused(f"{name} names folders that a model does not have", reason="config")
    return layout


def _components(index: Any) -> Layout:
    if not isinstance(index, dict):
        raise ModelRefused("model_index.json is not a JSON object", reason="config")
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or not CLASS.fullmatch(pipeline):
        raise _custom("model_index.json")
    folders = []
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if len(value) != 2 or value[0] not in PARTS or not CLASS.fullmatch(str(value[1])):
            raise _custom("model_index.json")
        folders.append(name)
    return Layout("diffusers", tuple(sorted(folders)), pipeline)


def _modules(index: Any) -> Layout:
    if not isinstance(index, list) or not all(isinstance(module, dict) for module in index):
        raise ModelRefused("modules.json is not a list of objects", reason="config")
    for module in index:
        if not MODULE.fullmatch(str(module.get("type"))):
            raise _custom("modules.json")
    # The root is read in any case, for the configuration of the whole.
    paths = {str(module.get("path", "")) for module in index} | {""}
    first = str(index[0].get("path", "")) if index else ""
    return Layout("sentence-transformers", (first, *sorted(paths - {first})))


def _custom(name: str) -> ModelRefused:
    return ModelRefused(
        f"{name} asks for code of the model's author to be run, which no module does",
        reason="custom-code",
    )
