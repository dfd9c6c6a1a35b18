"""Makes an image of a number, by a pipeline of diffusers."""

from typing import Any

from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.painted import painted
from generator.templates.inference.seeds import read_number


def answer(
    pipeline: Any, _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one answer per input."""
    results = each(pipeline, ({"number": read_number(value)} for value in inputs), parameters)
    return painted(results)
