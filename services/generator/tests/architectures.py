"""Write which architectures the pinned transformers has for each task.

    python services/generator/tests/architectures.py

The generator itself runs without transformers; a test compares the file with the library, so
that a new version of it is not forgotten here.
"""

import json
from pathlib import Path

from transformers.pipelines import SUPPORTED_TASKS

from generator.tasks import TASKS

FILE = Path(__file__).parents[1] / "generator/templates/architectures.json"


def of_the_library() -> dict[str, list[str]]:
    """The values of `model_type` in config.json that can be loaded, by task."""

    return {
        task: sorted(
            {
                model_type
                for auto_class in SUPPORTED_TASKS[task]["pt"]
                for model_type in auto_class._model_mapping._model_mapping
            }
        )
        for task in sorted(TASKS)
    }


if __name__ == "__main__":
    FILE.write_text(json.dumps(of_the_library(), indent=0) + "\n", encoding="utf-8")
