"""Segments of an image, with their labels and masks."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.loading import load as load
from generator.templates.inference.png import as_png
from generator.templates.inference.shrinking import shrink


def answer(pipeline: Any, _: dict[str, Any], inputs: list[Any], __: dict[str, Any]) -> list[Any]:
    """Return a list of {label, score, mask} per image; masks are PNGs as base64."""
    pictures = [read_image(value) for value in inputs]
    answers = [(picture.size, pipeline(shrink(picture))) for picture in pictures]
    return [
        [{**part, "mask": as_png(part["mask"].resize(size, 0))} for part in parts]
        for size, parts in answers
    ]
