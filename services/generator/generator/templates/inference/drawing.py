"""Writes pictures."""

from typing import Any


def as_png(picture: Any) -> str:
    """A PNG as base64."""
    import base64
    import io

    file = io.BytesIO()
    picture.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()
