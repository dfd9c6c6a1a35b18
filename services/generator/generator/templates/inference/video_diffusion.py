"""Videos, by the pipelines of diffusers."""

from typing import Any

from generator.templates.inference.diffusion import each
from generator.templates.inference.diffusion import load as load
from generator.templates.inference.png import as_png


def answer(
    pipeline: Any, manifest: dict[str, Any], inputs: list[Any], parameters: dict[str, Any]
) -> list[Any]:
    """Return one {video, frames} per input: an animated PNG as base64, and its length."""
    answers = []
    for result in each(pipeline, manifest, inputs, parameters):
        frames = pipeline.video_processor.numpy_to_pil(pictures(result.frames))
        answers.append({"video": as_png(*frames), "frames": len(frames)})
    return answers


def pictures(frames: Any) -> Any:
    """Return the one video: an array of (frames, height, width, channels) in 0 to 1."""
    import numpy as np

    return np.stack([np.asarray(frame, dtype="float32") for frame in frames[0]])
