"""Checks and resources of modules of ONNX files, which onnxruntime runs."""

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from common.contracts.generation import Accepted, Check, GenerateOptions
from generator import refusals, resources
from generator.instead import ORIGINAL
from generator.reasons import refuse
from generator.resources import Resources
from generator.snapshot import Snapshot
from models.families import BY_ONNXRUNTIME, ONNX
from models.tasks import Task


def check(read: Snapshot, accept: Collection[Accepted] = ()) -> tuple[Task, list[Check]]:
    """Return the row that serves the model, and its checks. Raises ModelRefused if none does."""
    task, checks = refusals.check(read, accept)
    if task.family not in BY_ONNXRUNTIME:
        base = read.description.base
        raise refuse(
            f"the model has ONNX weights only, which modules for {task.tag} do not run",
            "library",
            refusals.made_from(base) if base else ORIGINAL,
        )
    file, dtype = read.config["onnx"]["file"], read.config["onnx"]["dtype"]
    found = []
    if dtype == "U8":
        message = f"{file} is quantized, by its name: answers differ from the original model's"
        found.append(Check(name="quantized", outcome="warning", message=message))
    row = replace(task, family=BY_ONNXRUNTIME[task.family], stack=ONNX, measured=False)
    return row, [*found, *checks]


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
