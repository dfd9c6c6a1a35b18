"""Repositories whose model lies in several folders: which folders a module needs.

diffusers names its components in model_index.json, sentence-transformers its modules in
modules.json. Each library also loads classes of the model's author from there; such a model is
refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
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


# Parts of a pipeline that are called so have no weights.
WEIGHTLESS = re.compile(
    r"TokenizersBackend|\w*(?:Tokenizer(?:Fast)?|Scheduler|Processor(?:Fast|Pil)?|FeatureExtractor)"
)
# Modules of sentence-transformers that only models of such a class are made of.
ENCODERS = {"sparse_encoder": "SparseEncoder", "multi_vector_encoder": "MultiVectorEncoder"}
TOKENIZER = re.compile(r"TokenizersBackend|\w*Tokenizer(?:Fast)?")


@dataclass(frozen=True)
class Layout:
    """`folders` are those of the model's parts, "" the root; `pipeline` a class of diffusers.

    `classes` are those that the index names, by folder; `encoder` is the class of
    sentence-transformers that its modules are for, where others would make something else of them.
    """

    library: str | None = None
    folders: tuple[str, ...] = ("",)
    pipeline: str | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    encoder: str | None = None

    @property
    def tokenizers(self) -> dict[str, str | None]:
        """The folders that have a tokenizer's files, with its class where the index names it."""
        if self.library is None:
            return {"": None}
        if self.library == "diffusers":
            return {at: name for at, name in self.classes.items() if TOKENIZER.fullmatch(name)}
        first = self.folders[0]
        return {first: None} if self.classes[first] == "Transformer" else {}

    @property
    def with_weights(self) -> tuple[str, ...]:
        """The folders that may have weights, and must in a pipeline of diffusers."""
        if self.library != "diffusers":
            return self.folders
        return tuple(at for at, name in self.classes.items() if not WEIGHTLESS.fullmatch(name))


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
    classes = {}
    for name, value in sorted(index.items()):
        if name.startswith("_") or not isinstance(value, list) or value == [None, None]:
            continue
        if len(value) != 2 or str(value[0]) not in PARTS or not CLASS.fullmatch(str(value[1])):
            raise _custom("model_index.json")
        classes[name] = str(value[1])
    return Layout("diffusers", tuple(classes), pipeline, classes)


def _modules(index: Any) -> Layout:
    if not isinstance(index, list) or not all(isinstance(module, dict) for module in index):
        raise ModelRefused("modules.json is not a list of objects", reason="config")
    for module in index:
        if not MODULE.fullmatch(str(module.get("type"))):
            raise _custom("modules.json")
    # The root is read in any case, for the configuration of the whole.
    named = {str(one.get("path", "")): str(one["type"]).rpartition(".")[2] for one in index}
    first = str(index[0].get("path", "")) if index else ""
    folders = (first, *sorted({*named, ""} - {first}))
    of = {part for one in index for part in str(one["type"]).split(".")}
    encoder = next((name for part, name in ENCODERS.items() if part in of), None)
    return Layout("sentence-transformers", folders, classes={first: "", **named}, encoder=encoder)


def _custom(name: str) -> ModelRefused:
    return ModelRefused(
        f"{name} asks for code of the model's author to be run, which no module does",
        reason="custom-code",
    )
