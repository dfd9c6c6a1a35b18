"""Results of pipelines that make one video."""

from collections.abc import Iterable
from typing import Any

from generator.templates.inference.png import as_png


def video_answers(pipeline: Any, results: Iterable[Any]) -> list[Any]:
    """Return one {video, frames} per result: an animated PNG as base64, its number of frames."""
    answers = []
    for result in results:
        frames = pipeline.video_processor.numpy_to_pil(frames_of(result.frames))
        answers.append({"video": as_png(*frames), "frames": len(frames)})
    return answers


def frames_of(frames: Any) -> Any:
    """Return the frames of the first video: (frames, height, width, channels) in 0 to 1."""
    import numpy as np

    return np.stack([np.asarray(frame, dtype="float32") for frame in frames[0]])
