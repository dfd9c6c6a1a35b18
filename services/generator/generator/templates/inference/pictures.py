"""Pictures about a picture: what belongs to what, and how far away it is."""

from typing import Any

from generator.templates.inference.drawing import as_png
from generator.templates.inference.module import read_image


def prepare(pipeline: Any, _: dict[str, Any]) -> None:
    pass


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Per picture a list of {label, score, mask}, or {predicted_depth, depth}; PNGs as base64."""
    given = {name: value for name, value in parameters.items() if value is not None}
    answers = [pipeline(picture, **given) for picture in [read_image(value) for value in inputs]]
    if manifest["model"]["task"] == "depth-estimation":
        return [
            {"predicted_depth": found["predicted_depth"], "depth": as_png(found["depth"])}
            for found in answers
        ]
    return [[{**part, "mask": as_png(part["mask"])} for part in parts] for parts in answers]
