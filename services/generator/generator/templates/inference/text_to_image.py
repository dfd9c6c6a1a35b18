"""Makes an image of a text, by a pipeline of diffusers."""

from typing import Any

from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.painted import painted
from generator.templates.inference.texts import check_texts


def answer(
    pipeline: Any, _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one answer per input."""
    check_texts(inputs)
    results = each(pipeline, ({"prompt": value} for value in inputs), parameters)
    return painted(results)
