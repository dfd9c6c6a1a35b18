"""Segments of an image, with their labels and masks."""

from typing import Any

from generator.templates.inference.images import read_image
from generator.templates.inference.loading import load as load
from generator.templates.inference.png import as_png


def answer(pipeline: Any, _: dict[str, Any], inputs: list[Any], __: dict[str, Any]) -> list[Any]:
    """Return a list of {label, score, mask} per image; the masks PNGs as base64."""
    answers = [pipeline(picture) for picture in [read_image(value) for value in inputs]]
    return [[{**part, "mask": as_png(part["mask"])} for part in parts] for parts in answers]
