"""The noise of a series: its deviation, and the correlation of neighbouring values.

It is taken to be AR(1). The correlation is that of Chakar, Lebarbier, Levy-Leduc and Robin
("A robust approach for estimating change-points in the mean of an AR(1) process",
Bernoulli 23, 2017): the ratio of the differences two apart and one apart, which a
step touches only where it is.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Floats
from metrics.shape.cells import MEDIAN_DEVIATION, TINY, Cells, median

# Beyond this correlation, one value is little more than a copy of the one before.
MAX_CORRELATION = 0.97
# Differences are clipped at this many deviations.
CLIP_DEVIATIONS = 5.0
# If longer stretches vary more than AR(1) predicts, the noise is taken to be larger. Lengths of the
# stretches, in values, and the min number of stretches.
STRETCHES = (4, 8, 16, 32)
MIN_STRETCHES = 20


@dataclass(slots=True)
class Noise:
    """The noise of a series, with weights that whiten it to deviation 1.

    Attributes:
        deviation: of one value.
        weight: of each value, less `before` times the one before it.
    """

    deviation: float
    correlation: float
    weight: Floats
    before: Floats

    def whiten(self, column: Floats) -> Floats:
        earlier = np.concatenate([[0.0], column[:-1]])
        return np.asarray(self.weight * (column - self.before * earlier))


def measure(cells: Cells, values: Floats) -> Noise:
    steps = np.diff(cells.number)
    neighbours = steps == 1
    differences = np.diff(values)[neighbours]
    two = (values[2:] - values[:-2])[neighbours[1:] & neighbours[:-1]]
    correlation = 0.0
    square = _square(differences)
    if len(two) >= 8 and square > 0:
        correlation = min(max(_square(two) / square - 1, 0.0), MAX_CORRELATION)
    deviation = math.sqrt(square / 2 / (1 - correlation))
    least = max(TINY * float(np.abs(values).max()), 1e-100)
    if deviation < least:
        # The correlation of what is less is that of rounding.
        deviation, correlation = least, 0.0
    before = np.concatenate([[0.0], correlation ** steps.astype(np.float64)])
    weight = np.sqrt(cells.share() / (1 - before**2)) / deviation
    noise = Noise(deviation, correlation, weight, before)
    swollen = np.sqrt(_swelling(noise.whiten(values - median(values))))
    noise.weight /= swollen
    noise.deviation *= float(swollen)
    return noise


def _square(differences: Floats) -> float:
    """Return the mean square of differences, with outliers clipped."""
    if not len(differences):
        return 0.0
    differences = differences - median(differences)
    sizes = np.abs(differences)
    scale = median(sizes) / MEDIAN_DEVIATION
    # Where most values do not move, the largest tenth is ignored: changes, or outliers.
    return float(np.mean(np.minimum(sizes, CLIP_DEVIATIONS * scale) ** 2)) if scale else float(
        np.mean(np.sort(sizes)[: max(int(0.9 * len(sizes)), 1)] ** 2))  # fmt: skip


def _swelling(white: NDArray[np.float64]) -> float:
    """Return the variance of long stretches' means relative to white noise, at least 1."""
    sums = np.concatenate([[0.0], np.cumsum(white)])
    ratio = 1.0
    for length in STRETCHES:
        if len(white) < MIN_STRETCHES * length:
            break
        means = (sums[length:] - sums[:-length]) / length
        apart = means[length:] - means[:-length]
        middle = median(apart)
        spread = median(np.abs(apart - middle)) / MEDIAN_DEVIATION
        ratio = max(ratio, spread**2 * length / 2)
    return ratio
