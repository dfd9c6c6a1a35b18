"""Checks of a caller's texts."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput


def check_texts(values: list[Any]) -> None:
    for value in values:
        if not isinstance(value, str) or not value:
            raise InvalidInput("inputs: each must be a non-empty string")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise InvalidInput("inputs: a string holds an unpaired surrogate")
