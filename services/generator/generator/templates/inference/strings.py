"""Validation of a text that a caller sent."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput


def check_text(name: str, value: Any, expected: str = "must be a non-empty string") -> None:
    """Check the value of one input. Raises InvalidInput unless it is a text."""
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"{name}: {expected}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InvalidInput(f"{name}: a string holds an unpaired surrogate")
