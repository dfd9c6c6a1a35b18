"""The search for significant changes: steps, temporary incidents and slopes.

Greedy forward selection, as in orthogonal matching pursuit, of whichever explains most
after its penalty; then each place is tried again given the others, and what is not needed
is left out. The noise is made white first, so that sums over all places and lengths
cost a cumulated sum each.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from metrics.arrays import Floats
from metrics.shape.cells import MEDIAN_DEVIATION, median
from metrics.shape.curve import Line, fit_curve, ramp
from metrics.shape.explanation import Explanation, System
from metrics.shape.noise import Noise

# By how much a change must reduce the squared residuals, in squared deviations of the noise, for
# each place where it could be: chosen so that two of a hundred quiet series have a change.
STEP_COST = 13.0
INCIDENT_COST = 22.0
# Cells of few samples have heavier tails than the normal distribution.
SPARSE_COST = 6.0
LINE_COST = 14.0
PER_DOUBLING = 1.4
NEAR = 12
# An edge that explains less than this is left out.
NEEDED = 12.0
MAX_CHANGES = 16
SWEEPS = 3
# Fewer values in a row are outliers.
MIN_VALUES = 3
# Lengths of incidents that are tried, each this many times the one before; then refined.
LENGTH_GROWTH = 1.25
# A slope is tried if it alone explains this share of what all changes explain, or if it explains
# something in addition to them.
SLANTED = 0.25
# A slope may begin or end at this many places of the window.
BENDS = 24
# It is worth it if the best explanation without it leaves this share more unexplained.
BENT = 0.3
# A slope that restarts is looked for in this many spans of the window, if the rise of one is this
# many standard errors, and restarts take back at least this share of all rises.
SPANS, CLEAR_ERRORS, FALLEN = 32, 2.0, 0.3
# A curve must explain this much more than a slope alone does.
CURVED = 12.0
# Values on both sides of a step that show whether it is one, rather than a part of a curve.
BESIDE = 4
# It is none if their levels lack more than this share of its size, and this many standard errors.
SLOW, UNCLEAR = 0.4, 2.0
FLAT = 1e-9

Columns = NDArray[np.float64]
Places = NDArray[np.int64]
# A step's place, 0 for the level, or the ends of a line.
Key = int | tuple[int, int]
CURVE = (0, -1)


@dataclass(slots=True)
class Remainder:
    """The squared norms of possible steps and incidents, minus the part that the basis explains.

    Attributes:
        basis: the chosen columns, orthonormal.
    """

    steps: Floats
    incidents: Floats
    basis: list[Floats] = field(default_factory=list)


class Search:
    """The search for changes in a series.

    Args:
        values: without season and outliers.
        times: of the values, in any unit.
        noise: of the values.
        dense: each value is of many samples, so that no outlier is one.
    """

    def __init__(self, values: Floats, times: Floats, noise: Noise, *, dense: bool) -> None:
        self.min_length = 1 if dense else MIN_VALUES
        self.count = n = len(values)
        self.times = times
        self.noise = noise
        self.values = values
        self.middle = median(values)
        self.white = noise.whiten(values - self.middle)
        self.weight, self.after = noise.weight, noise.weight * (1 - noise.before)
        later = _later(self.after * self.after)
        self.norms = self.weight**2 + later
        self.overlap = self.weight * self.after + later
        self.steps = self._against(self.white)
        self.first, self.last = _spans(self.min_length, n)
        self.span_norms = (
            self.norms[self.first] + self.norms[self.last] - 2 * self.overlap[self.last]
        )
        self.length_cost = PER_DOUBLING * np.log2(n / 100) + 120 / n
        self.incident_cost = INCIDENT_COST + (0.0 if dense else SPARSE_COST)
        # A change near either end of the window may be as short as an incident, and costs as much.
        self.costs = np.full(n, STEP_COST + self.length_cost)
        near = max(NEAR, n // 16)
        self.costs[:near] = self.costs[-near:] = self.incident_cost + self.length_cost
        self._columns: dict[Key, tuple[Floats, Floats]] = {}

    def find(self) -> Explanation:
        """Return the cheapest explanation of the series, with or without a slope."""
        straight = self._measure([], Line(0, self.count - 1))
        inclined = self._grow(straight) if straight.line_gain > LINE_COST else None
        if inclined is not None and not inclined.places:
            return self._smooth(self._bend(inclined))  # steps would be a staircase
        nothing = self._measure([], None)
        best = self._grow(nothing)
        slanted = straight.line_gain > max(LINE_COST, SLANTED * (nothing.cost - best.cost))
        if best.places and not slanted:
            # A restart or an incident explains more than the slope that it interrupts.
            slanted = self._measure(best.places, straight.line).line_gain > LINE_COST
        if slanted:
            inclined = inclined or self._grow(straight)
            best = self._bend(min(best, inclined, key=lambda changes: changes.cost))
        return self._smooth(min([best, *self._sawtooth()], key=lambda changes: changes.cost))

    def curved(self, *, refined: bool = False) -> Explanation | None:
        """Return the explanation by a smooth curve, and by steps beside it."""
        fitted = fit_curve(self.times, self.values - self.middle, self.noise, refined=refined)
        if fitted is None:
            return None
        column, cost = fitted
        line = Line(0, self.count - 1, column)
        whitened = self.noise.whiten(column)
        self._columns[CURVE] = whitened, self._against(whitened)
        found = self._grow(self._measure([], line))
        sudden = [place for place in found.places if self._is_sudden(found, place)]
        if len(sudden) < len(found.places):
            found = self._measure(sudden, line)
        found.cost += cost - LINE_COST
        return found

    def _is_sudden(self, changes: Explanation, place: int) -> bool:
        """Return whether the values beside a step differ by as much as its two levels do."""
        edges = [0, *changes.places, self.count]
        before = max(edges[(number := edges.index(place)) - 1], place - BESIDE)
        after = min(edges[number + 1], place + BESIDE)
        left = self.values
        if changes.line is not None:
            left = left - changes.rise * ramp(self.times, changes.line)
        moved = float(left[place:after].mean() - left[before:place].mean())
        size = changes.levels[number] - changes.levels[number - 1]
        error = self.noise.deviation * math.sqrt(1 / (after - place) + 1 / (place - before))
        lacking = (size - moved) * math.copysign(1.0, size)
        return lacking <= max(SLOW * abs(size), UNCLEAR * error)

    def _smooth(self, best: Explanation) -> Explanation:
        """Return the cheaper of `best` and a smooth curve, tried only if `best` resembles one."""
        curved = self.curved() if best.resembles_curve(self.count) else None
        if curved is None:
            return best
        if not best.places:
            curved.cost += CURVED
        return min(best, curved, key=lambda changes: changes.cost)

    def _sawtooth(self) -> list[Explanation]:
        """Return explanations by a slope that restarts repeatedly; an empty list if implausible.

        Over all of the window such a slope explains nothing, and each step explains little without
        it. Its rate is that of most short spans, which have no restart; without it, the restarts
        are steps in one direction.
        """
        span = self.count // SPANS
        if span < 1:
            return []
        apart = self.values[span:] - self.values[:-span]
        error = median(np.abs(apart - median(apart))) / MEDIAN_DEVIATION / math.sqrt(SPANS)
        rise = median(apart) * (self.count - 1) / span
        moved = median(self.values[-span:]) - median(self.values[:span])
        if abs(rise) < CLEAR_ERRORS * SPANS * error or abs(rise - moved) < FALLEN * abs(rise):
            return []
        line = Line(0, self.count - 1)
        level = self.values - rise * ramp(self.times, line)
        flat = Search(level, self.times, self.noise, dense=self.min_length == 1)
        places = flat._grow(flat._measure([], None)).places
        if len(places) < 2:
            return []
        found = self._prune(self._settle(self._measure(places, line)))
        return [found] if (np.diff(found.levels) * found.rise < 0).all() else []

    def _bend(self, best: Explanation) -> Explanation:
        """Fit a slope that begins or ends within the window."""
        step, last = max(self.count // BENDS, 2), self.count - 1
        bends = range(step, last - step + 1, step)
        lines = [*(Line(place, last) for place in bends), *(Line(0, place) for place in bends)]
        places = best.places if best.line else []
        gains = [self._measure(places, line).line_gain for line in lines]
        bare = self._measure([], lines[int(np.argmax(gains))])
        bent = min(map(self._grow, [bare, *self._bent_at_step(best)]), key=lambda one: one.cost)
        # The bend is one more place. Cells in which a level changes look like bends where the noise
        # is small, so it must explain much of what is left.
        bent.cost += max(NEEDED, BENT * bent.cost)
        return min(best, bent, key=lambda changes: changes.cost)

    def _bent_at_step(self, best: Explanation) -> list[Explanation]:
        """Return the best slope that begins or ends with a step, if there are any steps.

        Steps on the slope are left out: they were a part of it.
        """
        last = self.count - 1
        bent = []
        for place in best.places:
            if place < last:
                before = [other for other in best.places if other <= place]
                bent.append(self._measure(before, Line(place, last)))
            after = [other for other in best.places if other >= place]
            bent.append(self._measure(after, Line(0, place)))
        return sorted(bent, key=lambda changes: changes.cost)[:1]

    def _grow(self, changes: Explanation) -> Explanation:
        remainder = Remainder(self.norms.copy(), self.span_norms.copy())
        for key in self._keys(changes.places, changes.line):
            self._choose(remainder, key)
        while len(changes.places) < MAX_CHANGES:
            added = self._next(changes, remainder)
            if not added:
                break
            for place in added:
                self._choose(remainder, place)
            changes = self._measure(sorted({*changes.places, *added}), changes.line)
        return self._prune(self._settle(changes)) if changes.places else changes

    def _choose(self, remainder: Remainder, key: Key) -> None:
        """Add a column to the basis, and subtract what it explains from each candidate's norm."""
        column, _ = self._whitened(key)
        norm = column @ column
        for _ in range(2):  # the second time for accuracy
            for chosen in remainder.basis:
                column = column - (chosen @ column) * chosen
        left = column @ column
        if left <= FLAT * norm:
            return
        column = column / np.sqrt(left)
        remainder.basis.append(column)
        part = self._against(column)
        remainder.steps -= part * part
        apart = part[self.first]
        apart -= part[self.last]
        apart *= apart
        remainder.incidents -= apart

    def _next(self, changes: Explanation, remainder: Remainder) -> list[int]:
        """Return where the change that explains most is: a step's place, or an incident's two ends.

        Of those that are chosen already, none; none at all where nothing is worth its cost.
        """
        n, system = self.count, self._system(changes.places, changes.line)
        keys = self._keys(changes.places, changes.line)
        steps = self.steps - system.coefficients @ self._products(keys, slice(None))
        gains = steps**2 / np.maximum(remainder.steps, FLAT * self.norms) - self.costs
        gains[: self.min_length] = gains[n - self.min_length + 1 :] = 0.0
        for place in changes.places:
            gains[max(place - self.min_length + 1, 0) : place + self.min_length] = 0.0
        place = int(np.argmax(gains))
        best, places = gains[place], [place]
        cost = self.incident_cost + 2 * self.length_cost
        if len(self.first):
            gains = steps[self.first]
            gains -= steps[self.last]
            gains *= gains
            gains /= np.maximum(remainder.incidents, FLAT * self.span_norms)
            number = int(np.argmax(gains))
            if gains[number] - cost > best:
                best = gains[number] - cost
                places = [int(self.first[number]), int(self.last[number])]
        return [] if best <= 0 else [place for place in places if place not in changes.places]

    def _settle(self, changes: Explanation) -> Explanation:
        """Move each change to the place where it explains most, given the other changes."""
        for _ in range(SWEEPS):
            places = list(changes.places)
            for number in range(len(places)):
                others = places[:number] + places[number + 1 :]
                low = places[number - 1] + 1 if number else self.min_length
                high = [*places, self.count - self.min_length + 1][number + 1]
                if low < high:
                    gains = self._gains(others, changes.line, slice(low, high))
                    places[number] = low + int(np.argmax(gains))
            if places == changes.places:
                break
            changes = self._measure(places, changes.line)
        return changes

    def _prune(self, changes: Explanation) -> Explanation:
        """Drop unnecessary changes, and one of any two that are a single change within a cell."""
        while changes.places:
            weakest, cost = int(np.argmin(changes.gains)), math.inf
            if changes.gains[weakest] > NEEDED + self.length_cost:
                # What a change within a cell leaves unexplained is not worth another explanation.
                weakest, cost = self._half_way(changes), changes.cost
                if weakest < 0:
                    break
            places = changes.places[:weakest] + changes.places[weakest + 1 :]
            changes = self._settle(self._measure(places, changes.line))
            changes.cost = min(changes.cost, cost)
        return changes

    def _half_way(self, changes: Explanation) -> int:
        """Return the index of the weaker of two changes that are too close; -1 if none are."""
        levels, places = changes.levels, changes.places
        for n in range(1, len(places)):
            low, high = sorted((levels[n - 1], levels[n + 1]))
            if places[n] - places[n - 1] < MIN_VALUES and low <= levels[n] <= high:
                return n - 1 if changes.gains[n - 1] < changes.gains[n] else n
        return -1

    def _gains(self, places: list[int], line: Line | None, where: slice) -> Floats:
        """Return how much a step at each place would explain in addition to given steps."""
        system, norms = self._system(places, line), self.norms[where]
        products = self._products(self._keys(places, line), where)
        free = norms - np.einsum("ij,ij->j", system.inverse @ products, products)
        steps = self.steps[where] - system.coefficients @ products
        return np.where(free > FLAT * norms, steps**2 / np.maximum(free, FLAT * norms), 0.0)

    def _measure(self, places: list[int], line: Line | None) -> Explanation:
        system = self._system(places, line)
        count, coefficients = len(places), system.coefficients
        # Leaving a column out would cost its squared coefficient over its variance.
        gains = coefficients**2 / np.diag(system.inverse)
        levels = self.middle + np.cumsum(coefficients[: count + 1])
        measured = Explanation(places, levels.tolist(), gains[1 : count + 1].tolist(), line)
        rest = self.white - coefficients @ system.columns
        measured.cost = float(rest @ rest) + count * (STEP_COST + self.length_cost)
        if line is not None:
            measured.rise, measured.line_gain = float(coefficients[-1]), float(gains[-1])
            measured.cost += LINE_COST
        return measured

    def _system(self, places: list[int], line: Line | None) -> System:
        keys = self._keys(places, line)
        columns = np.stack([self._whitened(key)[0] for key in keys])
        products = columns @ columns.T
        # A column that depends on the others has no coefficient of its own.
        products.flat[:: len(products) + 1] *= 1 + FLAT
        inverse = np.asarray(np.linalg.inv(products), np.float64)
        return System(columns, inverse, inverse @ (columns @ self.white))

    def _keys(self, places: list[int], line: Line | None) -> list[Key]:
        """Return the keys by which the columns of level, steps and line are cached."""
        if line is None:
            return [0, *places]
        return [0, *places, CURVE if line.curve is not None else (line.first, line.last)]

    def _products(self, keys: list[Key], where: slice) -> Columns:
        """Return the inner products of whitened columns with the steps at some places."""
        return np.stack([self._whitened(key)[1][where] for key in keys])

    def _whitened(self, key: Key) -> tuple[Floats, Floats]:
        """Return the whitened column of `key`, and its inner product with a step at each place."""
        if key not in self._columns:
            column = self._column(key)
            self._columns[key] = column, self._against(column)
        return self._columns[key]

    def _column(self, key: Key) -> Floats:
        if isinstance(key, tuple):
            return self.noise.whiten(ramp(self.times, Line(*key)))
        column = self.after.copy()
        column[:key] = 0.0
        column[key] = self.weight[key]
        return column

    def _against(self, column: Floats) -> Floats:
        """Return the inner products of a whitened column with a whitened step at each place."""
        return np.asarray(self.weight * column + _later(self.after * column))


def _later(column: Floats) -> Floats:
    """Return, for each value, the sum of all later values."""
    sums = np.cumsum(column)
    return np.asarray(sums[-1] - sums)


@lru_cache(maxsize=8)
def _spans(min_length: int, count: int) -> tuple[Places, Places]:
    """Return the indexes of the start and end of all incidents to try, the shortest first."""
    firsts, lasts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    length = float(min_length)
    while length < 0.9 * count:
        first = np.arange(min_length, count - int(length) - min_length + 1)
        firsts.append(first)
        lasts.append(first + int(length))
        length = max(length * LENGTH_GROWTH, length + 1)
    return np.concatenate(firsts), np.concatenate(lasts)
