"""Depth of each pixel of an image."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.loading import load as load
from generator.templates.inference.png import as_png
from generator.templates.inference.shrinking import shrink


def answer(pipeline: Any, _: dict[str, Any], inputs: list[Any], __: dict[str, Any]) -> list[Any]:
    """Return one {predicted_depth, depth} per image: rows of numbers, and a PNG as base64."""
    answers = [pipeline(shrink(picture)) for picture in [read_image(value) for value in inputs]]
    return [
        {"predicted_depth": depth["predicted_depth"], "depth": as_png(depth["depth"])}
        for depth in answers
    ]
