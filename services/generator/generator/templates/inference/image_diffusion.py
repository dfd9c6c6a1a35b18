"""Images, by the pipelines of diffusers."""

from typing import Any

from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.png import as_png


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {image} per input: a PNG as base64."""
    results = each(pipeline, manifest, inputs, parameters)
    return [{"image": as_png(result.images[0])} for result in results]
