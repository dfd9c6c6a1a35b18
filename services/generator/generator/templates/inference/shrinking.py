"""Downscaling of images for models that predict a value for each pixel."""

from typing import Any

# The memory that the module asks for holds predictions for at most this many pixels.
MAX_PIXELS = 2**20


def shrink(picture: Any) -> Any:
    """Return the image, scaled down to about MAX_PIXELS pixels if it is larger."""
    scale = (MAX_PIXELS / (picture.width * picture.height)) ** 0.5
    if scale >= 1:
        return picture
    return picture.resize([max(int(side * scale), 1) for side in picture.size])
