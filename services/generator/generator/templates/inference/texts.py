"""Checks of a caller's texts."""

from typing import Any

from generator.templates.inference.strings import check_text


def check_texts(values: list[Any]) -> None:
    """Check that each input is a text. Raises InvalidInput."""
    for value in values:
        check_text("inputs", value, "each must be a non-empty string")
