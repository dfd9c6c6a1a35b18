"""Write which architectures the pinned transformers has for each task.

    python services/generator/tests/architectures.py

The generator itself runs without transformers; a test compares the file with the library, so
that a new version of it is not forgotten here.
"""

import json
from pathlib import Path
from typing import Any

import transformers
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.video_processing_auto import VIDEO_PROCESSOR_MAPPING_NAMES
from transformers.pipelines import SUPPORTED_TASKS

from generator.libraries import LIBRARIES
from generator.tasks import FAMILIES
from generator.templates.inference.models import auto_class

FILE = Path(__file__).parents[1] / "generator/templates/architectures.json"
TASKS = LIBRARIES["transformers"]


def of_the_library() -> dict[str, list[str]]:
    """The values of `model_type` in config.json that can be loaded, by task."""
    return {
        task: sorted(
            {
                model_type
                for found in auto_classes(task)
                for model_type in found._model_mapping._model_mapping
                if not is_left_out(task, model_type)
            }
        )
        for task in sorted(TASKS)
    }


def auto_classes(task: str) -> tuple[Any, ...]:
    if "models" in FAMILIES[TASKS[task].family].sources:
        return (getattr(transformers, auto_class(task)),)
    found: tuple[Any, ...] = SUPPORTED_TASKS[task.replace("text-to-speech", "text-to-audio")]["pt"]
    return found


def is_left_out(task: str, model_type: str) -> bool:
    """Whether it does not hear, or only torchvision, which modules lack, prepares its pictures."""
    if TASKS[task].takes == "image" or task == "video-classification":
        readers = IMAGE_PROCESSOR_MAPPING_NAMES.get(model_type, {"pil": None})
        if "pil" not in readers:
            return True
    if task == "audio-text-to-text":
        return model_type in transformers.AutoModelForImageTextToText._model_mapping._model_mapping
    # Their processors load the one for videos whether there is a video or not.
    return TASKS[task].family == "conversing" and model_type in VIDEO_PROCESSOR_MAPPING_NAMES


if __name__ == "__main__":
    FILE.write_text(json.dumps(of_the_library(), indent=0) + "\n", encoding="utf-8")
