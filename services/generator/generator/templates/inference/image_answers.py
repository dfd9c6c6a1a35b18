"""Results of pipelines that make one image."""

from collections.abc import Iterable
from typing import Any

from generator.templates.inference.png import as_png


def image_answers(results: Iterable[Any]) -> list[Any]:
    """Return one {image} per result: a PNG as base64."""
    return [{"image": as_png(result.images[0])} for result in results]
