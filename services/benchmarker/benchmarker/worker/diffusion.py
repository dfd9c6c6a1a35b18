"""Diffusers pipelines as published, called on random inputs.

Timed is the call that a module makes: encoding the prompt, all denoising steps, decoding the
images. Prompts and images are random; each call draws fresh noise.
"""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarker.worker.device import DTYPES
from benchmarker.worker.process import Failed

WORDS = ["a", "frog", "sits", "on", "the", "lily", "pad", "in", "old", "red", "pond", "birds"]
PROMPT_WORDS = 12
# Components that run in each denoising step.
DENOISERS = ("unet", "transformer", "prior")


def read(question: dict[str, Any], device: str) -> Any:
    """Load the pipeline that `model_index.json` names. Raises Failed."""
    import diffusers  # noqa: PLC0415  (slow; few models need it)

    if question["attention"]:
        raise Failed(
            "`attention` cannot be chosen for diffusers pipelines; leave it out", "attention"
        )
    diffusers.utils.logging.disable_progress_bar()
    index = json.loads((Path(question["folder"]) / "model_index.json").read_text("utf-8"))
    if not hasattr(diffusers, str(index.get("_class_name"))):
        raise Failed("model_index.json names no pipeline class of diffusers", "load")
    try:
        pipeline = diffusers.DiffusionPipeline.from_pretrained(
            question["folder"],
            torch_dtype=DTYPES[question["dtype"]],
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        ).to(device)
    except (ValueError, ImportError, OSError, KeyError) as error:
        first = str(error).strip().partition("\n")[0]
        raise Failed(f"the model could not be loaded: {first}", "load") from error
    pipeline.set_progress_bar_config(disable=True)
    if question["compile"]:
        for name in DENOISERS:
            if isinstance(part := getattr(pipeline, name, None), torch.nn.Module):
                part.compile()
    return pipeline


def parts(pipeline: Any) -> torch.nn.Module:
    """Return the pipeline's models as one module, for counting weights."""
    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return torch.nn.ModuleList(models).eval().requires_grad_(requires_grad=False)


def preparing(pipeline: Any, question: dict[str, Any]) -> Callable[[int], Callable[[], Any]]:
    """Return a function that prepares a call on a batch of random prompts or images."""
    takes = inspect.signature(pipeline.__call__).parameters
    order = np.random.default_rng(question["seed"])

    def prepare(batch_size: int) -> Callable[[], Any]:
        options: dict[str, Any] = {"num_inference_steps": question["steps"], "output_type": "pt"}
        if "prompt" in takes:
            prompts = order.choice(WORDS, (batch_size, PROMPT_WORDS))
            options["prompt"] = [" ".join(words) for words in prompts]
        elif "batch_size" in takes:
            options["batch_size"] = batch_size
        if "image" in takes and takes["image"].default in (inspect.Parameter.empty, None):
            noise = order.integers(0, 256, (batch_size, 64, 64, 3), dtype=np.uint8)
            options["image"] = [Image.fromarray(picture) for picture in noise]
        return lambda: pipeline(**{name: value for name, value in options.items() if name in takes})

    return prepare
