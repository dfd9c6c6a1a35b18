"""Counts and shares in messages."""

import pytest

from common.quantities import counted, percent


@pytest.mark.parametrize(
    ("number", "expected"), [(0, "0 files"), (1, "1 file"), (12_000, "12,000 files")]
)
def test_one_of_a_kind_is_written_in_the_singular(number: int, expected: str) -> None:
    assert counted(number, "file") == expected
    assert counted(number, "entry", "entries").endswith(" entry") == (number == 1)


def test_a_share_is_written_with_a_space_before_the_percent_sign() -> None:
    assert (percent(0.953), percent(0.0125, 1)) == ("95 %", "1.2 %")
