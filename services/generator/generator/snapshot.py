"""A model at one commit: its configs and weight headers, validated as untrusted input."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from common.errors import ModelRefused
from generator import conversions, setfit, weights
from generator.description import Description, remembered
from generator.hub import Hub
from generator.layout import INDEXES, ROUTES, Layout, with_routes
from generator.pickled import measure as measure_pickled
from generator.reading import READERS
from generator.selection import (
    ADAPTED,
    PICKLED,
    TENSORS,
    WHOLE,
    File,
    Places,
    at,
    file_of,
    has_stale_index,
    is_weights,
    kinds_of,
    name_of,
)
from generator.selection import needed as needed_files
from generator.weights import Index, Weights, combine
from models import packing
from models.config import hidden_size, text_part
from models.dtypes import KIB, MIB
from models.tasks.sentences import HEAD, SETFIT, SETTINGS

# Configs that can name code to fetch, or that determine the kind of model.
CONFIGS = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
)
# Gemma 3's tokenizer lists its 6,400 added tokens in 1.2 MB, a classifier its 21,841 labels in 3.
MAX_CONFIG_BYTES = 4 * MIB
# All configs of one model together.
MAX_CONFIGS_BYTES = 16 * MIB
# Files up to this size, in bytes, are parsed in the event loop, larger ones in another process.
MAX_INLINE_BYTES = 64 * KIB
# Enough for the largest models, whose index has a line for each tensor of each expert.
MAX_INDEX_BYTES = 16 * MIB
# With more weight files than this, the Hub's own summary of the headers is used.
MAX_HEADERS = 64
MAX_CONCURRENT_HEADERS = 4
# A sentence model has one.
MAX_ROUTERS = 2
# An adapter as PEFT writes it.
ADAPTER_FILES = ("adapter_config.json", ADAPTED)


@dataclass(frozen=True)
class Snapshot:
    """A model at one commit, reduced to the small data that is cached.

    `kinds` are the kinds of files in the repository; `config` and `tokenizers` (by folder) are
    config.json and each tokenizer_config.json as reduced by `configs`.
    """

    description: Description
    files: tuple[File, ...]
    kinds: frozenset[str]
    config: dict[str, Any]
    weights: Weights | None
    layout: Layout
    tokenizers: dict[str, dict[str, Any]] = field(default_factory=dict)
    # Number of the pull request with the Hub's own conversion of the weights, and the files that
    # differ from the branch's.
    conversion: int | None = None
    differing: tuple[str, ...] = ()
    # For an adapter: the id and the revision of its base; for a base: the adapter (`adapters`).
    adapts: dict[str, Any] | None = None
    adapter: "Snapshot | None" = None

    @property
    def is_pickled(self) -> bool:
        """Whether some of the weights are converted when the image is built."""
        return any(file.becomes for file in self.files)

    @property
    def id(self) -> str:
        return self.description.id

    @property
    def commit(self) -> str:
        return self.description.sha

    def names(self, folder: str) -> set[str]:
        """Return the names of the module's files in a folder."""
        split = (file.path.rpartition("/") for file in self.files)
        return {name for at, _, name in split if at == folder}


async def read(hub: Hub, description: Description) -> Snapshot:
    """Read the model at its commit, or the Hub's own conversion of it if it has only pickles.

    Raises ModelRefused for a config that brings code and for weights that cannot be.
    """
    try:
        snapshot = await read_commit(hub, description)
    except ModelRefused as error:
        if error.details["reason"] != "pickle-only":
            raise
        return await read_commit(hub, description, pickled=True)
    if snapshot.weights is None and "adapted" in snapshot.kinds:
        return await _read_adapter(hub, description, snapshot)
    if snapshot.weights is None and "safetensors" in snapshot.kinds:
        return await _recognise_layout(hub, description, snapshot)
    if snapshot.weights is not None or "pickle" not in snapshot.kinds or not snapshot.config:
        return snapshot
    converted = await conversions.find(hub, description)
    if converted is None:
        return await read_commit(hub, description, pickled=True)
    number, description, differing = converted
    snapshot = await read_commit(hub, description)
    return replace(snapshot, conversion=number, differing=tuple(differing))


async def read_commit(hub: Hub, description: Description, *, pickled: bool = False) -> Snapshot:
    """Read the files by which the model is recognised: its configs and weight headers.

    With `pickled`, also weights that are there as torch.save wrote them only.

    Raises ModelRefused for a config that brings code and for weights that cannot be.
    """
    laid_out = await _read_layout(hub, description)
    shards = await _read_indexes(hub, description, laid_out, pickled=pickled)
    files = needed_files(description, laid_out, shards, pickled=pickled)
    read_files = [file for file in files if name_of(file.path) in CONFIGS]
    if sum(file.size for file in read_files) > MAX_CONFIGS_BYTES:
        raise ModelRefused(
            f"the model's configs are larger than {MAX_CONFIGS_BYTES // MIB} MiB together",
            reason="config",
        )
    measured, unconverted, *read_configs = await _together(
        _measure(hub, description, [file for file in files if is_weights(file.path)], shards),
        measure_pickled(
            hub,
            description,
            [file for file in files if is_weights(file.becomes or "") and file.path != HEAD],
        ),
        *(_read_config(hub, description, file) for file in read_files),
    )
    by_path = dict(read_configs)
    config = _pipeline(laid_out, by_path) if laid_out.pipeline else _config(laid_out, by_path)
    writing = by_path.get("generation_config.json")
    measured = combine(measured, unconverted)
    if measured and "kind" in config.get("packing", {}):
        measured = replace(
            measured, elements=packing.unpacked(config["packing"], measured.elements)
        )
    if measured and (heads := [file for file in files if file.path == HEAD]):
        head, facts = await _read_setfit(hub, description, heads[0], files)
        measured, config = combine(measured, head), {**config, SETFIT: facts}
    if config and writing is not None:
        # If present, it replaces the generation settings in config.json.
        config = {**config, "num_beams": writing.get("num_beams")}
    return Snapshot(
        remembered(description),
        files,
        kinds_of(description),
        config,
        measured,
        laid_out,
        {
            path.rpartition("/")[0]: read
            for path, read in by_path.items()
            if name_of(path) == "tokenizer_config.json"
        },
    )


async def _read_setfit(
    hub: Hub, description: Description, head: File, files: tuple[File, ...]
) -> tuple[Weights, dict[str, Any]]:
    """Read the classifier of a SetFit model; return its weights and its settings."""
    read: setfit.Head = await _read_file(hub, description, head, setfit.MAX_HEAD_BYTES, "head")
    settings = setfit.Settings()
    for file in files:
        if file.path == SETTINGS:
            settings = await _read_file(hub, description, file, MAX_CONFIG_BYTES, SETFIT)
    return setfit.weights_of(read), setfit.facts(read, settings)


async def _read_adapter(hub: Hub, description: Description, snapshot: Snapshot) -> Snapshot:
    """Read an adapter's config and weights; without safetensors, return the snapshot unchanged."""
    siblings = {sibling.rfilename: sibling for sibling in description.siblings}
    if not siblings.keys() >= set(ADAPTER_FILES):
        return snapshot
    files = tuple(file_of(siblings[name]) for name in ADAPTER_FILES)
    adapts = await _read_file(hub, description, files[0], MAX_CONFIG_BYTES, "adapter")
    measured = await _measure(hub, description, [files[1]], {})
    return replace(snapshot, files=files, weights=measured, adapts=adapts)


async def _recognise_layout(hub: Hub, description: Description, snapshot: Snapshot) -> Snapshot:
    """Read the header of a file that no library loads by its name: its tensors say what it is."""
    files = [file_of(one) for one in description.siblings if is_weights(one.rfilename)]
    smallest = min(files, key=lambda file: (file.size, file.path))
    try:
        measured = await _measure(hub, description, [smallest], {})
    except ModelRefused:  # whatever it is, the model is refused for its missing weights
        return snapshot
    names = (measured and measured.names) or ()
    kinds = {kind for kind, part in TENSORS.items() if any(map(part.search, names))}
    return replace(snapshot, kinds=snapshot.kinds | kinds)


async def _together(*readings: Coroutine[Any, Any, Any]) -> list[Any]:
    """Await coroutines concurrently; cancel the others if one fails."""
    tasks = [asyncio.ensure_future(reading) for reading in readings]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _config(laid_out: Layout, read: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the model's config: at the root, or in the folder of its first module.

    Of several transformers, those of a router, it is the widest's, and names the others' kinds.
    """
    folders = laid_out.transformers or laid_out.folders[:1] or ("",)
    found = [read.get(at(folder, "config.json"), {}) for folder in folders]
    config = max(found, key=lambda one: hidden_size(text_part(one)) or 0)
    if len(found) == 1:
        return config
    kinds = [{key: one[key] for key in ("model_type", "own_code") if key in one} for one in found]
    return {**config, "components": kinds}


def _pipeline(laid_out: Layout, read: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Build a diffusers pipeline's config: its class, and the parts that take most memory."""
    config: dict[str, Any] = {"architectures": [laid_out.pipeline], "denoiser": {}}
    for name in ("prior", "unet", "transformer"):
        config["denoiser"] = read.get(f"{name}/config.json") or config["denoiser"]
    if "vae" in laid_out.folders:
        config["vae"] = read.get("vae/config.json") or {}
    config["components"] = [
        {key: part[key] for key in ("model_type", "_class_name") if key in part}
        for part in (read.get(f"{folder}/config.json", {}) for folder in laid_out.with_weights)
    ]
    return config


async def _read_layout(hub: Hub, description: Description) -> Layout:
    """Read the index of a model in several folders, which determines the files to read next."""
    for sibling in description.siblings:
        if sibling.rfilename in INDEXES:
            name, file = sibling.rfilename, file_of(sibling)
            read: Layout = await _read_file(
                hub, description, file, MAX_CONFIG_BYTES, "layout", name=name
            )
            return await _read_routes(hub, description, read)
    return Layout()


async def _read_routes(hub: Hub, description: Description, laid_out: Layout) -> Layout:
    """Add the modules that a sentence model's routers name."""
    siblings = {sibling.rfilename: sibling for sibling in description.siblings}
    for folder in laid_out.routers[:MAX_ROUTERS]:
        for path in (at(folder, name) for name in ROUTES):
            if path in siblings:
                file = file_of(siblings[path])
                routes = await _read_file(hub, description, file, MAX_CONFIG_BYTES, "routes")
                laid_out = with_routes(laid_out, folder, routes)
                break
    return laid_out


async def _read_indexes(
    hub: Hub, description: Description, laid_out: Layout, *, pickled: bool
) -> Places:
    """Read the index of each folder whose weights are sharded."""
    siblings = {sibling.rfilename: sibling for sibling in description.siblings}
    wanted: dict[str, str] = {}
    for folder in laid_out.with_weights:
        if not any(at(folder, name) in siblings for name in WHOLE):
            prefix = at(folder, "")
            names = {path.removeprefix(prefix) for path in siblings if path.startswith(prefix)}
            beside = {name for name in names if "/" not in name}
            whole = () if has_stale_index(beside) else WHOLE
            whole = (*whole, *PICKLED) if pickled else whole
            for index in (at(folder, f"{name}.index.json") for name in whole):
                if index in siblings:
                    wanted.setdefault(folder, index)

    async def read(index: str) -> Index:
        file = file_of(siblings[index])
        found: Index = await _read_file(hub, description, file, MAX_INDEX_BYTES, "index")
        return found

    places = await _together(*(read(index) for index in wanted.values()))
    return dict(zip(wanted, places, strict=True))


async def _read_file(
    hub: Hub, description: Description, file: File, max_bytes: int, kind: str, **arguments: Any
) -> Any:
    """Fetch a file and parse it. Raises ModelRefused if it is larger than `max_bytes` bytes."""
    where = description.id, description.sha, file.path
    if file.size <= MAX_INLINE_BYTES:
        read, _ = READERS[kind]
        return read(content=await hub.file(*where, MAX_INLINE_BYTES), **arguments)
    if file.size > max_bytes:
        raise ModelRefused(f"{file.path} is larger than {max_bytes // MIB} MiB", reason="config")
    async with hub.large.slot():
        return await hub.reader.read(kind, await hub.file(*where, max_bytes), **arguments)


async def _read_config(
    hub: Hub, description: Description, file: File
) -> tuple[str, dict[str, Any]]:
    read = await _read_file(hub, description, file, MAX_CONFIG_BYTES, "config", name=file.path)
    return file.path, read


async def _measure(
    hub: Hub, description: Description, shards: list[File], places: Places
) -> Weights | None:
    if not shards:
        return None
    size = sum(shard.size for shard in shards)
    if len(shards) > MAX_HEADERS:
        if description.safetensors is None:
            raise ModelRefused(
                f"the weights are in more than {MAX_HEADERS} files, and the Hub has not read them",
                reason="weights",
            )
        names = weights.together(index.names for index in places.values())
        header = weights.Header(description.safetensors.parameters, names)
        return weights.total([header], size)
    free = asyncio.Semaphore(MAX_CONCURRENT_HEADERS)

    async def measure(shard: File) -> weights.Header:
        async with free:
            length = min(weights.FIRST_READ_BYTES, shard.size)
            part = await hub.part(description.id, description.sha, shard.path, 0, length)
            length = weights.header_length(part, shard.size)
            if length <= MAX_INLINE_BYTES and len(part) >= 8 + length:
                return weights.read_header(part[8 : 8 + length], shard.size)
            async with hub.large.slot():
                if len(part) < 8 + length:
                    part = await hub.part(
                        description.id, description.sha, shard.path, 0, 8 + length
                    )
                found: weights.Header = await hub.reader.read(
                    "header", part[8 : 8 + length], file_size=shard.size
                )
                return found

    return weights.total(await asyncio.gather(*(measure(shard) for shard in shards)), size)
