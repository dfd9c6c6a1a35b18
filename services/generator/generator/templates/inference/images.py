"""Reader of images."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput
from generator.templates.inference.media import read_file


def read_image(value: Any) -> Any:
    """Read an image, converted to RGB."""
    import io

    from PIL import Image

    content = read_file(value, "an image")
    try:
        return Image.open(io.BytesIO(content)).convert("RGB")
    except Exception:  # noqa: BLE001  (image decoders raise any kind of error)
        raise InvalidInput("inputs: an image cannot be read") from None
