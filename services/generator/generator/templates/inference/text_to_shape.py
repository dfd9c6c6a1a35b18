"""A shape made from a text by a diffusers pipeline."""

from typing import Any

from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.shape_answers import shape_answers
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {shape, corners, triangles} per input."""
    check_texts(inputs)
    results = each(pipeline, ({"prompt": value} for value in inputs), parameters)
    return shape_answers(results)
