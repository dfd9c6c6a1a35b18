"""An image made from a text by a diffusers pipeline."""

from typing import Any

from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.image_answers import image_answers
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {image} per input."""
    check_texts(inputs)
    results = each(pipeline, ({"prompt": value} for value in inputs), parameters)
    return image_answers(results)
