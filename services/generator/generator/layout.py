"""Repositories whose model spans several folders, and the folders that a module needs.

diffusers names its components in model_index.json, sentence-transformers its modules in
modules.json. Each library also loads classes of the model's author from there; such a model is
refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from common.errors import ModelRefused
from generator.reasons import refuse
from models.origins import SAVED

INDEXES = {"model_index.json": "diffusers", "modules.json": "sentence-transformers"}
# More than any pipeline has; each folder is one more config to read.
MAX_FOLDERS = 24
FOLDER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
# Modules that model_index.json may name: the two libraries, and parts of diffusers itself.
PARTS = {"diffusers", "transformers", "stable_diffusion", "shap_e", "wan", "flux"}
CLASS = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,127}")
MODULE = re.compile(r"sentence_transformers(?:\.[a-z_]{1,64}){0,6}\.[A-Za-z]{1,64}")


# Classes of pipeline components that have no weights.
WEIGHTLESS = re.compile(
    r"TokenizersBackend|\w*(?:Tokenizer(?:Fast)?|Scheduler|Processor(?:Fast|Pil)?|FeatureExtractor)"
)
# Modules of sentence-transformers that turn a text into one vector.
VECTORS = frozenset(("Pooling", "StaticEmbedding", "WordEmbeddings"))
# Its modules that send a query and a document through different modules, which they name in a file.
ROUTERS = frozenset(("Router", "Asym"))
ROUTES = ("router_config.json", "config.json")
# What a text is to a router, and the keys of its mappings for any text, as the library writes them.
ROLES = ("query", "document")
ANY_TEXT = frozenset(("(None, 'text')", "(None, None)"))
# Its tables of a vector, or a weight, for each token.
TABLES = frozenset(("StaticEmbedding", "SparseStaticEmbedding"))
# Its modules that split a text into words by themselves.
OF_WORDS = frozenset(("WordEmbeddings", "BoW"))
# The model class that modules of these sentence-transformers packages imply.
ENCODERS = {"sparse_encoder": "SparseEncoder", "multi_vector_encoder": "MultiVectorEncoder"}
TOKENIZER = re.compile(r"TokenizersBackend|\w*Tokenizer(?:Fast)?")


@dataclass(frozen=True)
class Layout:
    """The folders of a model's parts ("" is the root), and for diffusers its `pipeline` class.

    `classes` are the index's class names by folder; `encoder` is the class of
    sentence-transformers that its modules require, if any other would misread them. `unrouted` are
    the ROLES for which a router of the model has no route.
    """

    library: str | None = None
    folders: tuple[str, ...] = ("",)
    pipeline: str | None = None
    classes: Mapping[str, str] = field(default_factory=dict)
    encoder: str | None = None
    unrouted: tuple[str, ...] = ()

    @property
    def is_static(self) -> bool:
        """Whether the model is a table of word vectors, without a config of transformers."""
        return not self.transformers and not TABLES.isdisjoint(self.classes.values())

    @property
    def transformers(self) -> tuple[str, ...]:
        """The folders of a sentence model's transformers: several if it has a router."""
        if self.library != "sentence-transformers":
            return ()
        return tuple(at for at in self.folders if self.classes.get(at, "").endswith("Transformer"))

    @property
    def is_generative_ranker(self) -> bool:
        """Whether the model ranks texts by its preference for a token."""
        return "LogitScore" in self.classes.values()

    @property
    def routers(self) -> tuple[str, ...]:
        """The folders of a sentence model's routers."""
        return tuple(at for at, name in self.classes.items() if name in ROUTERS)

    @property
    def tokenizers(self) -> dict[str, str | None]:
        """The folders with a tokenizer's files, and its class if the index names one."""
        if self.library is None:
            return {"": None}
        if self.library == "diffusers":
            return {at: name for at, name in self.classes.items() if TOKENIZER.fullmatch(name)}
        return dict.fromkeys(self.transformers)

    @property
    def with_weights(self) -> tuple[str, ...]:
        """The folders that may have weights; in a diffusers pipeline each of them must."""
        if self.library != "diffusers":
            return self.folders
        return tuple(at for at, name in self.classes.items() if not WEIGHTLESS.fullmatch(name))


def read(name: str, content: bytes) -> Layout:
    """Parse an index. Raises ModelRefused if it is malformed or loads its author's code."""
    try:
        index = orjson.loads(content)
    except orjson.JSONDecodeError:
        index = None
    layout = _components(index) if name == "model_index.json" else _modules(index)
    if len(layout.folders) > MAX_FOLDERS or not all(
        folder == "" or FOLDER.fullmatch(folder) for folder in layout.folders
    ):
        raise _outside(name)
    return layout


@dataclass(frozen=True)
class Routes:
    """The types of a router's modules, by folder within the router's, and the unrouted roles."""

    types: dict[str, str]
    unrouted: tuple[str, ...]


def read_routes(content: bytes) -> Routes:
    """Parse a router's file. Raises ModelRefused as `read` does."""
    try:
        router = orjson.loads(content)
        types = router["types"]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        router, types = {}, None
    if not isinstance(types, dict):
        raise ModelRefused(f"{ROUTES[0]} does not name its modules", reason="config")
    if not all(MODULE.fullmatch(str(kind)) for kind in types.values()):
        raise _custom(ROUTES[0])
    if len(types) > MAX_FOLDERS or not all(map(FOLDER.fullmatch, types)):
        raise _outside(ROUTES[0])
    return Routes(types, tuple(role for role in ROLES if not _routes(router, role)))


def _routes(router: dict[str, Any], role: str) -> bool:
    """Return whether a router finds a route for a text of this role, as the library does."""
    named, settings = router.get("structure"), router.get("parameters")
    mapped = settings.get("route_mappings") if isinstance(settings, dict) else None
    keys = {*mapped} if isinstance(mapped, dict) else set()
    keys &= ANY_TEXT | {f"('{role}', 'text')", f"('{role}', None)"}
    return bool(keys) or (isinstance(named, dict) and role in named)


def with_routes(laid_out: Layout, at: str, routes: Routes) -> Layout:
    """Add the modules of the router in the folder `at`."""
    inner = {f"{at}/{name}" if at else name: kind for name, kind in routes.types.items()}
    return replace(
        laid_out,
        folders=(*laid_out.folders, *sorted(inner)),
        classes={**laid_out.classes, **{name: _class(kind) for name, kind in inner.items()}},
        encoder=laid_out.encoder or _encoder(inner.values()),
        unrouted=tuple(dict.fromkeys((*laid_out.unrouted, *routes.unrouted))),
    )


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
        if str(module.get("type")).startswith("pylate."):
            raise late_interaction()
        if not MODULE.fullmatch(str(module.get("type"))):
            raise _custom("modules.json")
    # The root is always read: it has the configuration of the whole model.
    named = {_folder(entry): _class(entry["type"]) for entry in index}
    first = _folder(index[0]) if index else ""
    folders = (first, *sorted({*named, ""} - {first}))
    encoder = _encoder(entry["type"] for entry in index)
    return Layout("sentence-transformers", folders, classes={first: "", **named}, encoder=encoder)


def _class(kind: str) -> str:
    return kind.rpartition(".")[2]


def _encoder(kinds: Iterable[str]) -> str | None:
    """Return the model class that module types require; None if they require none."""
    parts = {part for kind in kinds for part in kind.split(".")}
    return next((name for part, name in ENCODERS.items() if part in parts), None)


def _folder(module: dict[str, Any]) -> str:
    """Return a module's folder; some indexes write "." for the root and "./x" below it."""
    path = str(module.get("path", ""))
    return "" if path == "." else path.removeprefix("./")


def late_interaction() -> ModelRefused:
    return refuse(
        "the model compares texts token by token (late interaction), which no module does",
        "architecture",
        "a model that makes one vector of a text",
    )


def _outside(name: str) -> ModelRefused:
    return ModelRefused(f"{name} names folders that are not in the repository", reason="config")


def _custom(name: str) -> ModelRefused:
    return refuse(
        f"{name} requires code of the model's author, which modules do not run",
        "custom-code",
        SAVED,
    )
