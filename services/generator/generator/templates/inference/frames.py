"""Reader of videos as evenly spaced frames."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.media import read_file


def read_frames(value: Any, count: int) -> tuple[list[Any], float]:
    """Read `count` evenly spaced frames of a GIF, WebP or PNG; return them and the seconds."""
    import io

    from PIL import Image

    content, frames, milliseconds = read_file(value, "a video"), [], 0.0
    try:
        with Image.open(io.BytesIO(content)) as file:
            length = getattr(file, "n_frames", 1)
            chosen = [round(n * (length - 1) / max(count - 1, 1)) for n in range(count)]
            pictures = {}
            for number in range(length):
                file.seek(number)
                milliseconds += float(file.info.get("duration") or 40)
                if number in chosen:
                    pictures[number] = file.convert("RGB")
            frames = [pictures[number] for number in chosen]
    except Exception:  # noqa: BLE001  (image decoders raise any kind of error)
        raise InvalidInput(
            "inputs: a video cannot be read; send an animated GIF, WebP or PNG"
        ) from None
    return frames, milliseconds / 1000
