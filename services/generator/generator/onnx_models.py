"""Checks and resources of modules of ONNX files, which onnxruntime runs."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from common.contracts.generation import Accepted, Check, GenerateOptions
from generator import onnx_files, onnx_reading, refusals, resources
from generator.completeness import size_of
from generator.instead import ORIGINAL
from generator.reasons import refuse
from generator.resources import Resources
from generator.snapshot import Snapshot
from models import config as configs
from models.families import BY_ONNXRUNTIME, ONNX
from models.tables import table
from models.tasks import Task

# Kinds of files with weights of transformers.
OTHERS = frozenset(("safetensors", "pickle"))
# Less than any layer takes: an exporter writes its operations, each with the names of its inputs,
# and 4 bits of each weight of several square matrices, of which half of one is counted.
MIN_LAYER_BYTES = 256
COMPLETE = "a revision with the whole ONNX file, and the config.json that belongs to it"


def check(read: Snapshot, accept: Collection[Accepted] = ()) -> tuple[Task, list[Check]]:
    """Return the row that serves the model, and its checks. Raises ModelRefused if none does."""
    task, checks = refusals.check(read, accept)
    if task.family not in BY_ONNXRUNTIME and _has_others(read):
        raise refuse(f"modules for {task.tag} do not run ONNX files", "library", onnx_reading.OWN)
    if task.family not in BY_ONNXRUNTIME:
        base = read.description.base
        raise refuse(
            f"the model has ONNX weights only, which modules for {task.tag} do not run",
            "library",
            refusals.made_from(base) if base else ORIGINAL,
        )
    _check_size(read)
    file, dtype = read.config["onnx"]["file"], read.config["onnx"]["dtype"]
    found = []
    if dtype == "U8":
        message = f"{file} is quantized, by its name: answers differ from the original model's"
        found.append(Check(name="quantized", outcome="warning", message=message))
    row = replace(task, family=BY_ONNXRUNTIME[task.family], stack=ONNX, measured=False)
    return row, [*found, *checks]


def _has_others(read: Snapshot) -> bool:
    """Whether the caller named the ONNX file of a model that has other weights too."""
    named = read.config["onnx"].get("named", False)
    return bool(named) and not read.kinds.isdisjoint(OTHERS)


def _check_size(read: Snapshot) -> None:
    """Raise ModelRefused for files that cannot hold the layers that config.json names."""
    empty = [file.path for file in read.files if not file.size and onnx_files.is_named(file.path)]
    if empty:
        raise refuse(f"{empty[0]} is empty", "incomplete", COMPLETE)
    config = configs.complete(read.config)
    kind = str(config.get("model_type"))
    count, width = size_of(kind, config, "num_hidden_layers"), configs.hidden_size(config) or 0
    # Without a list of layers, the layers may share their weights (ALBERT).
    listed = "layers" in table()["bodies"].get(kind, {})
    least = MIN_LAYER_BYTES + (width**2 // 2 if listed else 0)
    if count and read.weights and read.weights.bytes < count * least:
        layers = f"{count:,} layers" if count > 1 else "layer"
        raise refuse(
            f"{read.config['onnx']['file']} is too small for the {layers} that config.json names",
            "incomplete",
            COMPLETE,
        )


def estimate(
    read: Snapshot, task: Task, options: GenerateOptions, **limits: Any
) -> tuple[Resources, list[Check]]:
    """Estimate the module's resources, as `resources.estimate` does.

    onnxruntime computes on processors, in float32, with all scores of attention in memory.
    """
    plain = options.model_copy(update={"gpu": False, "optimization_level": "none"})
    needs, checks = resources.estimate(read, task, plain, **limits)
    return replace(needs, vram_source="headers"), [*checks, *_unused(read, options)]


def _unused(read: Snapshot, options: GenerateOptions) -> list[Check]:
    """Warn of options that modules of ONNX files do not follow."""
    found = []
    if options.gpu:
        base = read.description.base
        instead = refusals.made_from(base) if base else "the model with safetensors weights"
        message = "modules of ONNX files run on CPUs and request no GPU; for a GPU, use "
        found.append(("gpu", f"{message}{instead}"))
    if options.optimization_level == "full":
        found.append(("optimizationLevel", "onnxruntime computes in one way only"))
    return [Check(name=name, outcome="warning", message=message) for name, message in found]
