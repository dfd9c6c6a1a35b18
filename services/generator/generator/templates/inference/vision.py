"""Labels, boxes or the last hidden state of an image."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.loading import load as load
from generator.templates.inference.pipeline import call


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one answer of the task's own pipeline per image."""
    return call(pipeline, manifest, [read_image(value) for value in inputs], **parameters)
