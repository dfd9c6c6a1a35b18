"""An explanation of a series: a level, its steps, and a slope or a curve."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Floats
from metrics.shape.curve import Line, ramp


@dataclass(slots=True)
class Explanation:
    """An explanation of a series by changes.

    Attributes:
        places: before which values the level changes.
        levels: of each part between the places, without the line.
        gains: what each place explains, in squared deviations of the noise.
        rise: of the line in all.
    """

    places: list[int] = field(default_factory=list)
    levels: list[float] = field(default_factory=list)
    gains: list[float] = field(default_factory=list)
    line: Line | None = None
    rise: float = 0.0
    line_gain: float = 0.0
    cost: float = 0.0

    def fitted(self, times: Floats) -> Floats:
        edges = [0, *self.places, len(times)]
        levels = np.repeat(self.levels, np.diff(edges))
        if self.line is not None:
            levels = levels + self.rise * ramp(times, self.line)
        return np.asarray(levels)

    def resembles_curve(self, count: int) -> bool:
        """Return whether the series, of `count` values, may be a curve, so that one is tried.

        Two steps in the same direction may, a step beside a slope, and a slope over a part of the
        window. For other changes, the search for a curve would take time in vain.
        """
        if self.line is not None:
            return bool(self.places) or self.line.last - self.line.first < count - 1
        up = np.diff(self.levels) > 0
        return bool((up[1:] == up[:-1]).any())


@dataclass(slots=True)
class System:
    """The solved least-squares equations of some basis functions, the rows of `columns`."""

    columns: NDArray[np.float64]
    inverse: NDArray[np.float64]
    coefficients: Floats
