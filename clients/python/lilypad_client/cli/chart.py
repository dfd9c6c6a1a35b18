"""Charts drawn with characters."""

from collections.abc import Sequence
from typing import Any

BLOCKS = " ▁▂▃▄▅▆▇█"
ROWS = 4


def lines(name: str, values: Sequence[float], width: int) -> list[str]:
    """Draw values as columns, oldest first; neighbours that do not fit share their maximum.

    Returns:
        A heading with the last value and the bounds, then ROWS lines at most `width` wide.
    """
    if not values:
        return [f"{name}: no values"]
    low, high = min(values), max(values)
    heading = f"{name}: {values[-1]:.4g}  (lowest {low:.4g}, highest {high:.4g})"
    groups = min(len(values), max(width - 2, 1))
    shown = [
        max(values[index * len(values) // groups : (index + 1) * len(values) // groups])
        for index in range(groups)
    ]
    steps = ROWS * (len(BLOCKS) - 1)
    heights = [
        1 + round((value - low) / (high - low) * (steps - 1)) if high > low else steps // 2
        for value in shown
    ]
    drawn = [heading]
    for row in reversed(range(ROWS)):
        full = row * (len(BLOCKS) - 1)
        cells = (BLOCKS[min(max(height - full, 0), len(BLOCKS) - 1)] for height in heights)
        drawn.append(f"  {''.join(cells)}".rstrip())
    return drawn


def values(plot: Any) -> list[float]:
    """Return the non-null means of a plot in the API's format `series`."""
    return [value for value in plot["columns"]["mean"] if value is not None]
