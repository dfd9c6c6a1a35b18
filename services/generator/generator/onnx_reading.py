"""Snapshots of models whose weights are an ONNX file.

onnxruntime alone reads the graph, when a module runs. The generator knows the size of its file, and
all else from the repository's configs.
"""

from dataclasses import replace

from generator import gguf_reading, onnx_files
from generator.description import Description
from generator.hub import Hub
from generator.reasons import refuse
from generator.selection import File, file_of, is_weights
from generator.snapshot import Snapshot, read_commit
from generator.weights import MAX_POINTER_BYTES, Weights, check_pointer
from models.dtypes import STORED_BYTES

SENTENCES = "sentence-transformers"
OWN = "the model's own weights, without options.file"


def is_onnx(read: Snapshot) -> bool:
    return "onnx" in read.config


async def read_model(hub: Hub, description: Description, named: str | None) -> Snapshot:
    """Read the model at its commit: its ONNX file if `named` or if it has nothing else to load.

    Raises as `gguf_reading.read_model` does, and ModelRefused for a file that cannot take the place
    of all transformers.
    """
    if named is not None and onnx_files.is_named(named):
        files = onnx_files.choose(description, named)
        found = await read_commit(hub, description)
        _check_place(found)
    else:
        found = await gguf_reading.read_model(hub, description, named)
        if not _needs_graph(found):
            return found
        files, named = onnx_files.choose(description, None), None
    if not files or not found.config:  # its config says what the graph computes
        return replace(found, weights=None)
    graph = [file_of(one) for one in files]
    for file in (one for one in graph if 0 < one.size <= MAX_POINTER_BYTES):
        check_pointer(await hub.part(description.id, description.sha, file.path, 0, file.size))
    return _with_graph(found, graph, named)


def _check_place(found: Snapshot) -> None:
    """Raise ModelRefused unless a named ONNX file can take the place of all transformers."""
    own = "the model that the ONNX file was made from" if found.weights is None else OWN
    count = len(found.layout.transformers)
    if count > 1:
        raise refuse(f"the model has {count} transformers, and an ONNX file is one", "library", OWN)
    if found.layout.library == SENTENCES and not count:
        raise refuse(
            "the model has no transformer, whose place an ONNX file could take", "library", own
        )
    if found.weights is not None and not found.config:
        raise refuse(
            "the model has no config.json, which says what an ONNX file computes", "config", own
        )


def _needs_graph(found: Snapshot) -> bool:
    """Whether the model's transformer exists only as ONNX files."""
    laid_out = found.layout
    if "onnx" not in found.kinds or laid_out.library not in (None, SENTENCES):
        return False
    if not found.kinds.isdisjoint(("adapter", "adapted")) or gguf_reading.is_gguf(found):
        return False
    rooted = laid_out.library is None or laid_out.transformers == ("",)
    return rooted and not any(_is_body(file.path, file.becomes) for file in found.files)


def _is_body(path: str, becomes: str | None = None, folder: str = "") -> bool:
    """Whether a file in the transformer's folder holds its weights, or is their index."""
    return path.rpartition("/")[0] == folder and (
        is_weights(path) or becomes is not None or path.endswith(".index.json")
    )


def _with_graph(found: Snapshot, graph: list[File], named: str | None) -> Snapshot:
    folder = next(iter(found.layout.transformers), "")
    kept = [file for file in found.files if not _is_body(file.path, file.becomes, folder)]
    layers = [file for file in kept if is_weights(file.path)]
    dtype = onnx_files.stored(graph[0].path)
    elements = {dtype: sum(file.size for file in graph) // STORED_BYTES[dtype]}
    for file in layers:  # small ones that sentence-transformers adds
        elements["F32"] = elements.get("F32", 0) + file.size // STORED_BYTES["F32"]
    return replace(
        found,
        files=tuple(sorted([*kept, *graph], key=lambda file: file.path)),
        # The settings of quantized files are transformers.js's or optimum's own.
        kinds=found.kinds - {"quantized"},
        config={
            **found.config,
            "onnx": {"file": graph[0].path, "dtype": dtype, "named": named is not None},
        },
        weights=Weights(
            dict(sorted(elements.items())), sum(f.size for f in (*graph, *layers)), None
        ),
    )
