"""A model at one commit: what the Hub says of it, checked as hostile, and what it is made of."""

import asyncio
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, TypeVar

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id
from pydantic import (
    BaseModel,
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from common.errors import HubUnavailable, ModelRefused
from generator import configs, layout, vocabulary, weights
from generator.hub import Hub
from generator.layout import INDEXES, Layout
from generator.reasons import refuse
from generator.weights import Index, Weights

# Files that transformers reads from a model's folder and that hold no code.
LOADED = vocabulary.known() | {
    *("config.json", "generation_config.json", "preprocessor_config.json"),
    *("processor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.json", "chat_template.jinja"),
}
# Beside those, what sentence-transformers and diffusers read.
LOADED_TOO = re.compile(
    r"modules\.json|config_sentence_transformers\.json"
    r"|sentence_(?:bert|roberta|distilbert|camembert|albert|xlnet|xlm-roberta)_config\.json"
    r"|model_index\.json|scheduler_config\.json"
)
# The libraries take the first of these; else what its index names.
WHOLE = ("model.safetensors", "diffusion_pytorch_model.safetensors")
SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}\.safetensors")
NUMBERED = re.compile(r"(?:diffusion_pytorch_)?model-\d{5,6}-of-\d{5,6}\.safetensors")
# What PEFT and diffusers call the difference to another model's weights.
ADAPTER = re.compile(r"adapter_config\.json|pytorch_lora_weights\.(?:safetensors|bin)")
# Written beside weights that are packed, where the config does not say so.
QUANTIZED = frozenset(("quantize_config.json", "quant_config.json", "quantization_config.json"))
# Read here, because they can name code to fetch or decide what the model is.
CONFIGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
# The tokenizer of Gemma 3 describes its 6,400 added tokens in 1.2 MB, a classifier its 21,841
# labels in 3.
MOST_CONFIG = 8 * 2**20
# Read into what it says in a moment, in bytes.
SMALL = 64 * 2**10
# That of the largest models, with a line for each tensor of each expert.
MOST_INDEX = 16 * 2**20
# The largest open models are in some 200; module.yaml names each.
MOST_SHARDS = 2000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack", ".npz")
# Beyond so many weight files the Hub's own summary of the headers is taken.
MOST_HEADERS = 64
HEADERS_AT_ONCE = 4

Found = TypeVar("Found")
Hex40 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
Hex64 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Size = Annotated[int, Field(ge=0, lt=2**50)]


class Lfs(BaseModel):
    sha256: Hex64
    size: Size


class Sibling(BaseModel):
    rfilename: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    size: Size | None = None
    blob_id: Hex40 | None = Field(None, alias="blobId")
    lfs: Lfs | None = None


class Summary(BaseModel):
    """The Hub's own reading of the weights' headers."""

    parameters: Annotated[dict[weights.Dtype, Size], Field(max_length=weights.MOST_DTYPES)]


def _if_sensible(value: Any, read: ValidatorFunctionWrapHandler) -> Any:
    """The Hub hands on what an owner's file claims; a lie of theirs is not the Hub's nonsense."""
    try:
        return read(value)
    except ValidationError:
        return None


Name = Annotated[str, StringConstraints(max_length=128)]
Claimed = Annotated[Name | None, WrapValidator(_if_sensible)]


class TransformersInfo(BaseModel):
    pipeline_tag: Claimed = None


class Card(BaseModel):
    """A licence, or a choice of few, each as the owner names it.

    `license_name` says which it is where `license` is `other`.
    """

    license: Annotated[
        Name | Annotated[list[Name], Field(max_length=4)] | None, WrapValidator(_if_sensible)
    ] = None
    license_name: Claimed = None


class Security(BaseModel):
    files_with_issues: list[Any] = Field([], alias="filesWithIssues")


class Description(BaseModel):
    """The part of `/api/models/<id>` that is used; anything else in it is never seen."""

    id: str
    sha: Hex40
    siblings: list[Sibling] = []
    pipeline_tag: Claimed = None
    library_name: Claimed = None
    card: Annotated[Card | None, WrapValidator(_if_sensible)] = Field(None, alias="cardData")
    gated: bool | Name | None = False
    private: bool | None = False
    disabled: bool | None = False
    transformers_info: TransformersInfo | None = Field(None, alias="transformersInfo")
    safetensors: Annotated[Summary | None, WrapValidator(_if_sensible)] = None
    security: Annotated[Security | None, WrapValidator(_if_sensible)] = Field(
        None, alias="securityRepoStatus"
    )

    @property
    def licenses(self) -> list[str]:
        named = (self.card.license if self.card else None) or []
        return [named] if isinstance(named, str) else named

    @property
    def own_license(self) -> str:
        """What a licence is called that the Hub has no name for; empty where it has one."""
        called = self.card.license_name if self.card and "other" in self.licenses else None
        return (called or "").lower()

    @property
    def unsafe_files(self) -> int:
        return len(self.security.files_with_issues) if self.security else 0


@dataclass(frozen=True)
class File:
    """A file that the module needs; `sha256` of its content, else git's `blob` id of it."""

    path: str
    size: int
    sha256: str | None
    blob: str | None


@dataclass(frozen=True)
class Snapshot:
    """`kinds` says what else than safetensors is there; `config` is what `configs` leaves of it.

    `tokenizers` is the same of each tokenizer_config.json, by folder. It is kept in memory for
    long, so all of it is small, whatever the model's owner wrote.
    """

    description: Description
    files: tuple[File, ...]
    kinds: frozenset[str]
    config: dict[str, Any]
    weights: Weights | None
    layout: Layout
    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.description.id

    @property
    def commit(self) -> str:
        return self.description.sha

    def names(self, folder: str) -> set[str]:
        """The files that the module takes of a folder, by their names in it."""
        split = (file.path.rpartition("/") for file in self.files)
        return {name for at, _, name in split if at == folder}


async def describe(hub: Hub, id: str, revision: str) -> Description:
    answer = await hub.model(id, revision)
    try:
        description = Description.model_validate(answer)
        # Renamed models answer under their new id; that one is recorded.
        validate_repo_id(description.id)
    except (ValidationError, HFValidationError):
        raise HubUnavailable("the Hub's answer is not what a Hub answers", status=502) from None
    return description


async def read(hub: Hub, description: Description) -> Snapshot:
    """Read what decides whether and how the model is served: its configs and weight headers.

    Raises ModelRefused for a config that brings code and for weights that cannot be.
    """
    laid_out = await _read_layout(hub, description)
    shards = await _read_indexes(hub, description, laid_out)
    files = _needed(description, laid_out, shards)
    measured, *read_configs = await _together(
        _measure(hub, description, [file for file in files if _is_weights(file.path)], shards),
        *(_read_config(hub, description, file) for file in files if _name(file.path) in CONFIGS),
    )
    # What the model is stands at the root, or where sentence-transformers has its first module.
    first = (
        "config.json"
        if laid_out.folders[:1] in ((), ("",))
        else laid_out.folders[0] + "/config.json"
    )
    by_path = dict(read_configs)
    config = _pipeline(laid_out, by_path) if laid_out.pipeline else by_path.get(first, {})
    writing = by_path.get("generation_config.json")
    if config and writing is not None:
        # Where it is there, what config.json says of writing is not heard.
        config = {**config, "num_beams": writing.get("num_beams")}
    return Snapshot(
        remembered(description),
        files,
        _kinds(description),
        config,
        measured,
        laid_out,
        {
            path.rpartition("/")[0]: read
            for path, read in by_path.items()
            if _name(path) == "tokenizer_config.json"
        },
    )


async def _together(*readings: Coroutine[Any, Any, Any]) -> list[Any]:
    """All of them at once; when one is refused, the others ask no further."""
    tasks = [asyncio.ensure_future(reading) for reading in readings]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _pipeline(laid_out: Layout, read: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What a pipeline of diffusers is, and the sizes of the parts that take most memory."""
    config: dict[str, Any] = {"architectures": [laid_out.pipeline], "denoiser": {}}
    for name in ("prior", "unet", "transformer"):
        config["denoiser"] = read.get(f"{name}/config.json") or config["denoiser"]
    if "vae" in laid_out.folders:
        config["vae"] = read.get("vae/config.json") or {}
    return config


def remembered(description: Description) -> Description:
    """Without what may be long and has been used."""
    return description.model_copy(update={"siblings": [], "safetensors": None})


def _kinds(description: Description) -> frozenset[str]:
    names = [sibling.rfilename for sibling in description.siblings]
    kinds = {
        "adapter": any(ADAPTER.fullmatch(_name(name)) for name in names),
        "gguf": any(name.endswith(".gguf") for name in names),
        "pickle": any(name.endswith(PICKLES) for name in names),
        "quantized": not QUANTIZED.isdisjoint(names),
        "shards": any(NUMBERED.fullmatch(_name(name)) for name in names),
        "safetensors": any(_is_weights(name) for name in names),
    }
    return frozenset(kind for kind, there in kinds.items() if there)


async def _read_layout(hub: Hub, description: Description) -> Layout:
    """Read the index of a model in several folders, before it is known which files it needs."""
    for sibling in description.siblings:
        if sibling.rfilename in INDEXES:
            read = partial(layout.read, sibling.rfilename)
            return await _read_file(hub, description, _file(sibling), MOST_CONFIG, read)
    return Layout()


Places = dict[str, Index]


async def _read_indexes(hub: Hub, description: Description, laid_out: Layout) -> Places:
    """Of each folder with its weights in several files, which those are."""
    siblings = {sibling.rfilename: sibling for sibling in description.siblings}
    wanted: dict[str, str] = {}
    for folder in laid_out.with_weights:
        if not any(at(folder, name) in siblings for name in WHOLE):
            for index in (at(folder, f"{name}.index.json") for name in WHOLE):
                if index in siblings:
                    wanted.setdefault(folder, index)

    async def read(index: str) -> Index:
        file = _file(siblings[index])
        return await _read_file(hub, description, file, MOST_INDEX, weights.read_index)

    places = await _together(*(read(index) for index in wanted.values()))
    return dict(zip(wanted, places, strict=True))


async def _read_file(
    hub: Hub, description: Description, file: File, most: int, read: Callable[[bytes], Found]
) -> Found:
    """What `read` makes of a file. Raises ModelRefused: it has more than `most` bytes."""
    where = description.id, description.sha, file.path
    if file.size <= SMALL:
        return read(await hub.file(*where, SMALL))
    if file.size > most:
        raise ModelRefused(f"{file.path} is larger than {most // 2**20} MiB", reason="config")
    async with hub.large:
        # Parsing megabytes would hold up every other request.
        return await asyncio.to_thread(read, await hub.file(*where, most))


def at(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _needed(description: Description, laid_out: Layout, shards: Places) -> tuple[File, ...]:
    siblings = {sibling.rfilename: sibling for sibling in description.siblings}
    folders = dict.fromkeys(("", *laid_out.folders))
    chosen: list[str] = []
    for folder in folders:
        prefix = f"{folder}/" if folder else ""
        names = [
            path.removeprefix(prefix)
            for path in siblings
            if path.startswith(prefix) and "/" not in path.removeprefix(prefix)
        ]
        # The root of a pipeline may have the whole of it once more, in one file.
        kept = folder in laid_out.with_weights
        weights = _weights(names, shards.get(folder)) if kept else []
        if folder and not weights and any(name.endswith(PICKLES) for name in names):
            raise refuse(
                f"the model has pickled weights only in {folder}, and loading those can run "
                "anyone's code",
                "pickle-only",
                "a revision with safetensors weights",
            )
        if laid_out.pipeline and kept and not weights:
            raise refuse(
                f"the weights of the model's {folder} are missing, or there only as a variant",
                "incomplete",
                f"a revision with {' or '.join(WHOLE)} there",
            )
        loaded = [name for name in names if name in LOADED]
        if laid_out.library or "config_sentence_transformers.json" in names:
            loaded += [name for name in names if LOADED_TOO.fullmatch(name)]
        chosen += [prefix + name for name in weights + loaded]
    return tuple(_file(siblings[path]) for path in sorted(chosen))


def _weights(names: list[str], index: Index | None) -> list[str]:
    for whole in WHOLE:
        if whole in names:  # the libraries prefer it to shards
            return [whole]
    if index is None:
        return []
    shards = sorted(index.shards)
    if len(shards) > MOST_SHARDS:
        raise ModelRefused(f"the weights are in more than {MOST_SHARDS} files", reason="weights")
    if not set(shards) <= set(names) or not all(map(SHARD.fullmatch, shards)):
        raise refuse(
            "some of the model's weight files are missing",
            "incomplete",
            "a revision that has all that its index names",
        )
    return [*shards, *(f"{whole}.index.json" for whole in WHOLE if f"{whole}.index.json" in names)]


def _is_weights(path: str) -> bool:
    return path.endswith(".safetensors")


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _file(sibling: Sibling) -> File:
    if sibling.lfs:
        return File(sibling.rfilename, sibling.lfs.size, sibling.lfs.sha256, None)
    if sibling.size is None or sibling.blob_id is None:
        raise HubUnavailable("the Hub does not say what the model's files are", status=502)
    return File(sibling.rfilename, sibling.size, None, sibling.blob_id)


async def _read_config(
    hub: Hub, description: Description, file: File
) -> tuple[str, dict[str, Any]]:
    read = partial(configs.read, file.path)
    return file.path, await _read_file(hub, description, file, MOST_CONFIG, read)


async def _measure(
    hub: Hub, description: Description, shards: list[File], places: Places
) -> Weights | None:
    if not shards:
        return None
    size = sum(shard.size for shard in shards)
    if len(shards) > MOST_HEADERS:
        if description.safetensors is None:
            raise ModelRefused(
                f"the weights are in more than {MOST_HEADERS} files, and the Hub has not read them",
                reason="weights",
            )
        names = weights.together(index.names for index in places.values())
        header = weights.Header(description.safetensors.parameters, names)
        return weights.total([header], size)
    free = asyncio.Semaphore(HEADERS_AT_ONCE)

    async def measure(shard: File) -> weights.Header:
        async with free:
            part = await hub.part(
                description.id, description.sha, shard.path, 0, min(weights.FIRST, shard.size)
            )
            length = weights.header_length(part, shard.size)
            if len(part) >= 8 + length:
                return await asyncio.to_thread(
                    weights.read_header, part[8 : 8 + length], shard.size
                )
            async with hub.large:
                part = await hub.part(description.id, description.sha, shard.path, 0, 8 + length)
                return await asyncio.to_thread(weights.read_header, part[8:], shard.size)

    return weights.total(await asyncio.gather(*(measure(shard) for shard in shards)), size)
