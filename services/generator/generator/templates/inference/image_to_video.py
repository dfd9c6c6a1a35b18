"""Makes a video of an image, by a pipeline of diffusers."""

from typing import Any

from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.filmed import filmed
from generator.templates.inference.images import read_image


def answer(
    pipeline: Any, _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one answer per input."""
    results = each(pipeline, ({"image": read_image(value)} for value in inputs), parameters)
    return filmed(pipeline, results)
