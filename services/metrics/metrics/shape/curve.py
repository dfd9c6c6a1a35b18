"""Lines and smooth curves: levels that move at a constant or at a changing rate.

A curve, as of a training loss or a cooling cache, is a quadratic spline whose knots are chosen one
by one (Smith, "Curve fitting and modeling with splines using statistical variable selection
techniques", NASA CR-166034, 1982), so that it is as simple as the noise allows.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Floats
from metrics.shape.noise import Noise

# Knots divide the window evenly, and its ends further, where decays begin and growth ends.
EVEN, HALVINGS = 24, 4
# Knots are refined to this share of their distance.
FINER = (-0.5, -0.25, 0.0, 0.25, 0.5)
# By how much a piece must reduce the squared residuals, in squared deviations of the noise.
PIECE_COST = 12.0
MAX_PIECES = 12
# The first pieces cover the whole window: the level, a slope, and two parabolas.
WHOLE_PIECES = 4
# Widths of S-curves, as shares of the window, and the least, in values.
WIDTHS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
MIN_WIDTH = 6
# Values between two knots.
MIN_VALUES = 3
FLAT = 1e-9
# A stretch is straight if it is this close to its chord, as a share of its rise.
STRAIGHT = 0.1
# A curve is level once this share of its range is left.
LEVEL_SHARE = 0.05
# A slope that lasts has lasted for at least this part of the window, and as many cells, and is
# this clear, in squared deviations.
MIN_PARTS, MIN_CELLS, CLEAR_SLOPE = 16, 8, 14.0


@dataclass(slots=True)
class Line:
    """A slope between two cells, constant before `first` and after `last`; or a curve."""

    first: int
    last: int
    curve: Floats | None = None


def ramp(times: Floats, line: Line) -> Floats:
    """Return a ramp from 0 to 1 between the line's ends, or its curve."""
    if line.curve is not None:
        return line.curve
    first, last = times[line.first], times[line.last]
    return np.asarray(np.clip((times - first) / (last - first), 0.0, 1.0))


def fit_curve(
    times: Floats, values: Floats, noise: Noise, *, refined: bool
) -> tuple[Floats, float] | None:
    """Fit a curve; return it and its cost, or None if no piece is worth its cost.

    The curve is of range 1, and the cost is that of its pieces. `refined` moves the knots to where
    they are best.
    """
    place = (times - times[0]) / (times[-1] - times[0])
    near = 0.5 ** np.arange(1, HALVINGS + 1) / EVEN
    near = near[near * len(times) >= MIN_VALUES]
    knots = np.concatenate([near, np.arange(1, EVEN) / EVEN, 1 - near])
    white = noise.whiten(values)
    pieces, chosen = _choose(place, knots, white, noise)
    for width in (1 / EVEN, 1 / EVEN / 4) if refined else ():
        number = chosen[(chosen >= WHOLE_PIECES) & (chosen < WHOLE_PIECES + 2 * len(knots))]
        if not len(number):
            break
        around = knots[(number - WHOLE_PIECES) % len(knots)][:, np.newaxis] + width * np.array(
            FINER
        )
        knots = np.unique(around[(around > 0) & (around < 1)])
        pieces, chosen = _choose(place, knots, white, noise)
    if len(chosen) < 2:
        return None
    columns = _whiten(pieces[chosen], noise)
    weights = np.linalg.lstsq(columns.T, white, rcond=None)[0]
    curve = weights[1:] @ pieces[chosen[1:]]
    span = float(np.ptp(curve))
    return ((curve - curve[0]) / span, PIECE_COST * (len(chosen) - 1)) if span > 0 else None


def _choose(
    place: Floats, knots: Floats, white: Floats, noise: Noise
) -> tuple[Floats, NDArray[np.int64]]:
    """Return the pieces of splines with some knots, and the indexes of the necessary ones."""
    knots = knots[:, np.newaxis]
    pieces = np.concatenate([
        [np.ones(len(place)), place, place**2, (1 - place) ** 2],
        np.maximum(place - knots, 0) ** 2, np.maximum(knots - place, 0) ** 2,
        _smooth_steps(place),
    ])  # fmt: skip
    columns = _whiten(pieces, noise)
    products, wanted = columns @ columns.T, columns @ white
    norms = products.diagonal()
    chosen: list[int] = []
    left, against = norms.copy(), wanted.copy()
    basis = np.empty((0, len(norms)))
    while len(chosen) <= MAX_PIECES:
        free = left > FLAT * norms
        gains = np.where(free, against**2 / np.where(free, left, 1.0), 0.0)
        piece = int(np.argmax(gains)) if chosen else 0  # the level is first
        if chosen and gains[piece] < PIECE_COST:
            break
        chosen.append(piece)
        row = (products[piece] - basis[:, piece] @ basis) / np.sqrt(left[piece])
        against = against - against[piece] / np.sqrt(left[piece]) * row
        left = left - row * row
        basis = np.vstack([basis, row])
    while len(chosen) > 2:  # later pieces make earlier ones superfluous
        matrix = products[np.ix_(chosen, chosen)].copy()
        matrix.flat[:: len(chosen) + 1] *= 1 + FLAT
        inverse = np.linalg.inv(matrix)
        gains = (inverse @ wanted[chosen]) ** 2 / np.diag(inverse)
        weakest = 1 + int(np.argmin(gains[1:]))
        if gains[weakest] > PIECE_COST:
            break
        del chosen[weakest]
    return pieces, np.array(chosen)


def _smooth_steps(place: Floats) -> Floats:
    """Return S-curves of two parabolas each, of several widths and places."""
    steps = []
    for width in WIDTHS:
        if width * len(place) < MIN_WIDTH:
            continue
        for begin in np.arange(-width / 2, 1 - width / 2, width / 2):
            x = np.clip((place - begin) / width, 0, 1)
            steps.append(np.where(x < 0.5, 2 * x * x, 1 - 2 * (1 - x) ** 2))
    return np.array(steps).reshape(-1, len(place))


def _whiten(rows: Floats, noise: Noise) -> Floats:
    white = noise.weight * rows
    white[:, 1:] -= (noise.weight * noise.before)[1:] * rows[:, :-1]
    return np.asarray(white)


def stretch(level: Floats, noise: Noise) -> Line | None:
    """Return the part of a curve that a slope describes truly; None if there is none.

    It is the last one if the level still moves, else the one until the level was reached.
    """
    count = len(level)
    last = count - 1
    error = noise.deviation * math.sqrt((1 + noise.correlation) / (1 - noise.correlation))
    left = level - level[-1]
    whole = float(np.abs(left).max())
    places = np.arange(count)
    for first in range(0, last - max(count // MIN_PARTS, MIN_CELLS) + 1, max(count // 64, 1)):
        rise = -left[first]
        chord = -rise * (last - places[first:]) / (last - first)
        if np.abs(chord - left[first:]).max() <= STRAIGHT * abs(rise):
            length = count - first
            if abs(rise) > LEVEL_SHARE * whole and rise**2 * length / 12 > CLEAR_SLOPE * error**2:
                return Line(first, last)
            break
    moving = np.flatnonzero(np.abs(left) > LEVEL_SHARE * whole)
    if not len(moving) or moving[-1] >= last - 1:
        return None
    end = int(moving[-1]) + 1
    back = left[: end + 1] * np.sign(left[end - 1])
    # As far back as it moved this way.
    falls = np.flatnonzero(np.diff(back) > FLAT * whole)
    start = int(falls[-1]) + 1 if len(falls) else 0
    top = back[start]
    begin = start + int(np.flatnonzero(back[start:] >= (1 - LEVEL_SHARE) * top)[-1])
    return Line(begin, end) if end - begin >= MIN_CELLS else None
