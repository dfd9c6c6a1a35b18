"""Makes a video of a video, by a pipeline of diffusers."""

from typing import Any

from generator.templates.inference.clips import read_video
from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.filmed import filmed


def answer(
    pipeline: Any, _: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one answer per input."""
    results = each(pipeline, ({"video": read_video(value)} for value in inputs), parameters)
    return filmed(pipeline, results)
