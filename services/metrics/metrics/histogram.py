"""Logarithmic histograms, in the format of the database's log_bin() and histogram_of().

Bins of 1 %: the middle of a bin is within 0.5 % of every value in it.
Positive and negative values have bins of their own sign, zero is 0.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Floats

BIN_GROWTH = 1.01
# Keeps the sign of the exponent out of the way of the sign of the value.
OFFSET = 100_000
ENTRIES = np.dtype([("bin", ">i4"), ("count", ">i4")])

Bins = NDArray[np.int64]
Counts = NDArray[np.int64]


def bins_of(values: Floats) -> Bins:
    sizes = np.where(values == 0, 1.0, np.abs(values))
    exponents = np.ceil(np.log(sizes) / math.log(BIN_GROWTH))
    bins: Bins = (np.sign(values) * (OFFSET + exponents)).astype(np.int64)
    return bins


def add(packed: NDArray[Any], values: Floats) -> tuple[Bins, Counts]:
    """Sum packed histograms and values; return the bins, ascending, and their counts."""
    bins = np.concatenate([packed["bin"], bins_of(values)]).astype(np.int64)
    weights = np.concatenate([packed["count"], np.ones(len(values))])
    least = bins.min()
    # In floats, which hold counts up to 2^53 exactly.
    counts = np.bincount(bins - least, weights=weights)
    used = np.flatnonzero(counts)
    return used + least, counts[used].astype(np.int64)


def quantile(bins: Bins, counts: Counts, q: float) -> float:
    """Return a quantile, interpolated like numpy's between the middles of bins."""
    cumulated = np.cumsum(counts)
    rank = q * (cumulated[-1] - 1)
    below = math.floor(rank)
    around = np.searchsorted(cumulated, [below, math.ceil(rank)], side="right")
    low, high = middles(bins[around])
    return float(low + (high - low) * (rank - below))


def middles(bins: Bins) -> Floats:
    """Return the value in each bin that has the same relative error to both ends of the bin."""
    with np.errstate(over="ignore"):  # the last bin ends beyond the largest float
        sizes = BIN_GROWTH ** (np.abs(bins) - OFFSET).astype(np.float64) * (2 / (BIN_GROWTH + 1))
    return np.where(bins == 0, 0.0, np.sign(bins) * sizes)
