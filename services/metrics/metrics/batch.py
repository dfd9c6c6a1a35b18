"""What a call brings, taken apart: rows to store, extremes to watch, news to tell."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.contracts.monitoring import EPOCH, MOST_SAMPLES, Samples
from common.errors import InvalidRequest
from metrics.arrays import Floats, Ints, Times
from metrics.series import Pair
from metrics.writer import now

# Of what came together, the newest moments of each model that are told, as no chart shows more;
# and the newest value of each metric in any case.
MOST_TOLD = 10


@dataclass(slots=True)
class Batch:
    """A call's samples: for each the pair of model and metric (an index), the time, the value."""

    pairs: list[Pair]
    pair: NDArray[np.intp]
    at: Times
    value: Floats
    timed: NDArray[np.bool_]

    @property
    def models(self) -> dict[str, list[int]]:
        """The models, each with its pairs."""
        models: dict[str, list[int]] = {}
        for number, (model, _) in enumerate(self.pairs):
            models.setdefault(model, []).append(number)
        return models

    def only(self, chosen: NDArray[np.bool_]) -> "Batch":
        """Some of the samples; pairs that have none are left out."""
        used, pair = np.unique(self.pair[chosen], return_inverse=True)
        pairs = [self.pairs[number] for number in used.tolist()]
        return Batch(pairs, pair, self.at[chosen], self.value[chosen], self.timed[chosen])


class Clock:
    """Never the same time twice in this process."""

    def __init__(self, now: Callable[[], int] = now) -> None:
        self._now = now
        self._last = 0

    def times(self, count: int) -> Times:
        first = max(self._now(), self._last + 1)
        self._last = first + count - 1
        return np.arange(first, first + count, dtype=np.int64)


def unpack(samples: Samples, clock: Clock) -> Batch:
    """The columns of a call, with a time where none was given.

    Raises:
        InvalidRequest: the columns do not fit together. The gateway sends none such.
    """
    model = _column(samples.model, "<u2")
    at = _column(samples.at, "<i8").astype(np.int64)
    size = _column(samples.size, "<u2")
    metric = _column(samples.metric, "<u2")
    value = _column(samples.value, "<f8").astype(np.float64)
    fits = (
        len(model) == len(at) == len(size)
        and len(metric) == len(value) == size.sum() <= MOST_SAMPLES
        and (not len(model) or model.max() < len(samples.models))
        and (not len(metric) or metric.max() < len(samples.metrics))
        and bool(np.isfinite(value).all())
    )
    if not fits:
        raise InvalidRequest(f"not columns of at most {MOST_SAMPLES} samples")
    timed = at != 0
    at[at < 0] = 0
    if not timed.all():
        at[~timed] = clock.times(int((~timed).sum()))
    width = len(samples.metrics)
    keys, pair = np.unique(
        np.repeat(model.astype(np.int64), size) * width + metric, return_inverse=True
    )
    pairs = [(samples.models[key // width], samples.metrics[key % width]) for key in keys.tolist()]
    return Batch(pairs, pair, np.repeat(at, size), value, np.repeat(timed, size))


def _column(packed: bytes, kind: str) -> NDArray[Any]:
    if len(packed) % np.dtype(kind).itemsize:
        raise InvalidRequest("a column ends in the middle of a number")
    return np.frombuffer(packed, kind)


@dataclass(slots=True)
class Extremes:
    """Of one metric in what was just recorded: values, and their times in us since 2000."""

    least: float
    least_at: int
    greatest: float
    greatest_at: int
    newest: int

    def after(self, over: int, newest: float) -> tuple[float, float]:
        """The least and greatest value; the newest one in place of what came before `over`."""
        least = self.least if self.least_at > over else newest
        return least, self.greatest if self.greatest_at > over else newest

    def add(self, other: "Extremes") -> None:
        if other.least <= self.least:
            self.least, self.least_at = other.least, other.least_at
        if other.greatest >= self.greatest:
            self.greatest, self.greatest_at = other.greatest, other.greatest_at
        self.newest = max(self.newest, other.newest)


def extremes(batch: Batch) -> list[Extremes]:
    """Of each pair."""
    order = np.argsort(batch.pair, kind="stable")
    pair, at, values = batch.pair[order], batch.at[order], batch.value[order]
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    least, greatest = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
    columns = (
        least,
        np.maximum.reduceat(np.where(values == least[pair], at, 0), first),
        greatest,
        np.maximum.reduceat(np.where(values == greatest[pair], at, 0), first),
        np.maximum.reduceat(at, first),
    )
    return [Extremes(*one) for one in zip(*(column.tolist() for column in columns), strict=True)]


Moments = dict[int, dict[str, float]]


def moments(batch: Batch) -> Iterator[tuple[str, Moments]]:
    """Of each model the moments that are told (`chosen`): by time, the metrics."""
    for model, numbers in batch.models.items():
        of_model = (
            np.arange(len(batch.pair))
            if len(numbers) == len(batch.pairs)
            else np.flatnonzero(np.isin(batch.pair, numbers))
        )
        newest = of_model[np.argsort(batch.at[of_model], kind="stable")]
        at, backwards = batch.at[newest], newest[::-1]
        _, last = np.unique(batch.pair[backwards], return_index=True)
        told = np.union1d(np.unique(at)[-MOST_TOLD:], batch.at[backwards[last]])
        found: Moments = {}
        for index in newest[np.isin(at, told)].tolist():
            metric = batch.pairs[batch.pair[index]][1]
            # Of one time the first counts, as it does when it is stored.
            found.setdefault(int(batch.at[index]), {}).setdefault(metric, batch.value[index].item())
        yield model, found


def chosen(moments: Moments) -> list[int]:
    """The newest moments, and those with the newest value of a metric: their times, ascending."""
    times = sorted(moments)
    newest = {metric: at for at in times for metric in moments[at]}
    return sorted({*times[-MOST_TOLD:], *newest.values()})


def to_time(at: int) -> datetime:
    """Of microseconds since 2000."""
    return EPOCH + timedelta(microseconds=at)


def to_text(at: int) -> str:
    """RFC 3339, of microseconds since 2000."""
    return to_time(at).isoformat().replace("+00:00", "Z")


def series_of(batch: Batch, numbers: list[int]) -> Ints:
    return np.array(numbers, np.int32)[batch.pair]
