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


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        *((0, "0 %"), (0.0, "0 %"), (1, "100 %"), (1.0, "100 %"), (12.5, "1250 %")),
        *((0.0036, "0.4 %"), (0.00002, "0.002 %"), (0.996, "99.6 %"), (0.9995, "99.95 %")),
        *((1.0004, "100.04 %"), (-0.004, "-0.4 %"), (1e-9, "0 %"), (-1e-9, "0 %")),
    ],
)
def test_a_share_between_none_and_all_is_never_rounded_to_either(
    share: float, expected: str
) -> None:
    assert percent(share) == expected
