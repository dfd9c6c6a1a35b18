"""Counts and shares as messages and pages write them."""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a count with its noun: `1 file`, `12,000 files`, `2 entries`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def percent(share: float, places: int = 0) -> str:
    """Return a share of one as a percentage: `95 %`."""
    return f"{share * 100:.{places}f} %"
