"""Write which architectures the pinned transformers has for each task.

    python services/generator/tests/architectures.py

The generator itself runs without transformers; a test compares the file with the library, so
that a new version of it is not forgotten here.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES
from transformers.pipelines import SUPPORTED_TASKS

from generator.libraries import LIBRARIES
from generator.tasks import FAMILIES
from generator.templates.inference.models import auto_class
from hub import vision

FILE = Path(__file__).parents[1] / "generator/templates/architectures.json"
TASKS = LIBRARIES["transformers"]
# Packages that some architectures' processors ask for, and that no family installs.
ABSENT = {"smolvlm": "num2words", "voxtral": "mistral-common", "voxtral_realtime": "mistral-common"}


def of_the_libraries() -> dict[str, dict[str, Any]]:
    """`served`: the values of `model_type` that can be loaded, by task, and timm's architectures.

    `absent`: by task, those that a module lacks a package for, with its name.
    """
    known = {task: model_types(task) for task in sorted(TASKS)}
    absent = {
        task: {kind: package for kind in kinds if (package := absent_package(task, kind))}
        for task, kinds in known.items()
    }
    served = {
        task: [kind for kind in kinds if kind not in absent[task]] for task, kinds in known.items()
    }
    served |= {"timm": of_timm(), "diffusers": of_diffusers()}
    return {"served": served, "absent": absent}


def of_diffusers() -> list[str]:
    return sorted(name for name in dir(diffusers) if name.endswith("Pipeline"))


def of_timm() -> list[str]:
    """Asked in a process of its own, which alone has torchvision."""
    done = subprocess.run(
        [sys.executable, "-c", "import json, timm; print(json.dumps(timm.list_models()))"],
        env={**os.environ, **vision.environment()},
        capture_output=True,
        text=True,
        check=True,
    )
    names: list[str] = json.loads(done.stdout)
    return names


def model_types(task: str) -> list[str]:
    found: set[str] = set()
    for chosen in auto_classes(task):
        if hasattr(chosen, "_model_mapping"):
            found |= set(chosen._model_mapping._model_mapping)
        else:  # a model's own class, where the library has none for the task
            found.add(chosen.config_class.model_type)
    sees = transformers.AutoModelForImageTextToText._model_mapping._model_mapping
    if task == "video-text-to-text":
        found &= set(VIDEO_PROCESSOR_MAPPING_NAMES)
    if task == "audio-text-to-text":
        found -= set(sees)
    return sorted(found)


def auto_classes(task: str) -> tuple[Any, ...]:
    if "models" in FAMILIES[TASKS[task].family].sources:
        return (getattr(transformers, auto_class(task)),)
    found: tuple[Any, ...] = SUPPORTED_TASKS[task.replace("text-to-speech", "text-to-audio")]["pt"]
    return found


def absent_package(task: str, model_type: str) -> str | None:
    """What prepares the inputs of such a model and is not installed."""
    family = FAMILIES[TASKS[task].family]
    if family.name == "conversing" and model_type in ABSENT:
        return ABSENT[model_type]
    sees = TASKS[task].takes in ("image", "video")
    readers = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {"pil": None})
    if sees and "torchvision" not in family.needs and "pil" not in readers:
        return "torchvision"
    return None


if __name__ == "__main__":
    FILE.write_text(json.dumps(of_the_libraries(), indent=0) + "\n", encoding="utf-8")
