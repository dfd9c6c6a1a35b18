"""Reader of a caller's files, sent as base64 or named in /inputs."""

from pathlib import Path
from typing import Any

from generator.templates.inference.folders import INPUT_DIR
from generator.templates.inference.inputs import InvalidInput, decode


def read_file(value: Any, kind: str) -> bytes:
    """Read bytes from base64, with or without a data: prefix, or from a file in /inputs."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"inputs: {kind} is base64 or a file's name")
    path = INPUT_DIR / value if len(value) < 256 else None
    try:
        if path and Path(value).name == value and path.is_file():
            return path.read_bytes()
        return decode(value.rpartition("base64,")[2])
    except (OSError, ValueError):
        raise InvalidInput(f"inputs: {kind} cannot be read") from None
