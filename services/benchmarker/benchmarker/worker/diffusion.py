"""A pipeline of diffusers as its authors published it, and calls on random inputs.

What is timed is the call that a module makes: reading the words, all steps of denoising, and
decoding the pictures. Words and pictures are random; the noise is drawn anew in each call.
"""

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarker.worker.child import Failed
from benchmarker.worker.device import DTYPES

WORDS = ["a", "frog", "sits", "on", "the", "lily", "pad", "in", "old", "red", "pond", "birds"]
LENGTH = 12  # words of a prompt
# The parts that are gone through in every step.
DENOISERS = ("unet", "transformer", "prior")


def read(question: dict[str, Any], device: str) -> Any:
    """The pipeline that `model_index.json` names. Raises Failed."""
    import diffusers  # noqa: PLC0415  (slow; few models need it)

    if question["attention"]:
        raise Failed("the attention of a pipeline of diffusers cannot be chosen", "attention")
    diffusers.utils.logging.disable_progress_bar()
    index = json.loads((Path(question["folder"]) / "model_index.json").read_text("utf-8"))
    if not hasattr(diffusers, str(index.get("_class_name"))):
        raise Failed("model_index.json names no pipeline of diffusers", "load")
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
    """Its models as one, for counting."""
    models = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return torch.nn.ModuleList(models).eval().requires_grad_(requires_grad=False)


def preparing(pipeline: Any, question: dict[str, Any]) -> Callable[[int], Callable[[], Any]]:
    """Calls on a batch: prompts where it takes some, pictures where it needs one."""
    takes = inspect.signature(pipeline.__call__).parameters
    order = np.random.default_rng(question["seed"])

    def prepare(batch_size: int) -> Callable[[], Any]:
        given: dict[str, Any] = {"num_inference_steps": question["steps"], "output_type": "pt"}
        if "prompt" in takes:
            prompts = order.choice(WORDS, (batch_size, LENGTH))
            given["prompt"] = [" ".join(words) for words in prompts]
        elif "batch_size" in takes:
            given["batch_size"] = batch_size
        if "image" in takes and takes["image"].default in (inspect.Parameter.empty, None):
            noise = order.integers(0, 256, (batch_size, 64, 64, 3), dtype=np.uint8)
            given["image"] = [Image.fromarray(picture) for picture in noise]
        return lambda: pipeline(**{name: value for name, value in given.items() if name in takes})

    return prepare
