"""Parser of the seed of one random answer."""

from typing import Any

from generator.templates.inference.inputs import InvalidInput


def read_number(value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if isinstance(value, (bool, float)) or not 0 <= number < 2**32:
        raise InvalidInput("inputs: each must be an integer from 0 to 4294967295")
    return number
