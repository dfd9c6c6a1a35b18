"""Reader of videos as images, for pipelines that modify videos."""

import io
from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.media import read_file


def read_video(value: Any) -> list[Any]:
    """Read the frames of an animated image, from base64 or from a file in /inputs."""
    from PIL import Image, ImageSequence

    content = read_file(value, "a video")
    try:
        with Image.open(io.BytesIO(content)) as video:
            return [frame.convert("RGB") for frame in ImageSequence.Iterator(video)]
    except Exception:  # noqa: BLE001  (image decoders raise any kind of error)
        raise InvalidInput("inputs: a video cannot be read") from None
