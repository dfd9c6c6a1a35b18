"""Counts and shares as messages and pages write them."""

# Most decimal places of a percentage.
MAX_PLACES = 3


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: `1 file`, `12,000 files`, `2 entries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float, places: int = 0) -> str:
    """Return a share of one as a percentage: `95 %`.

    It has more places where fewer would make it `0 %` or `100 %`, which it is not.
    """
    value = share * 100
    written = (f"{value:z.{each}f}" for each in range(places, MAX_PLACES + 1))
    exact = (text for text in written if float(text) not in (0, 100) or float(text) == value)
    return f"{next(exact, f'{value:z.{places}f}')} %"
