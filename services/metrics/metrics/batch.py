"""The samples of a call, as rows to store, extremes to evaluate, and values to publish by time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.contracts.recording import MAX_SAMPLES, Samples
from common.contracts.timestamps import now_us
from common.errors import InvalidRequest
from metrics.arrays import Floats, Times
from metrics.series import Pair
from metrics.storage import Rows

# Max moments of each model published for one group, the newest ones: no chart shows more. The
# newest value of each metric is published in any case.
MAX_PUBLISHED = 10


@dataclass(slots=True)
class Batch:
    """The unpacked samples of a call.

    Attributes:
        key: the call's idempotency key, "" for none.
        pairs: the different pairs of model and metric.
        series: the number of each pair's series, once they are known.
        pair: each sample's pair, an index into `pairs`.
        at: each sample's time.
        timed: whether the caller chose that time.
    """

    account: str
    key: str
    pairs: list[Pair]
    series: list[int]
    pair: NDArray[np.intp]
    at: Times
    value: Floats
    timed: NDArray[np.bool_]

    @property
    def models(self) -> dict[str, list[int]]:
        """By model, the indexes in `pairs` of its (model, metric) pairs."""
        models: dict[str, list[int]] = {}
        for number, (model, _) in enumerate(self.pairs):
            models.setdefault(model, []).append(number)
        return models

    def rows(self) -> Rows:
        series = np.array(self.series, np.int32)[self.pair]
        return Rows(series, self.at, self.value, self.timed)

    def only(self, chosen: NDArray[np.bool_]) -> "Batch":
        """Return some of the samples, without pairs that have no samples left."""
        if chosen.all():
            return self
        used, pair = np.unique(self.pair[chosen], return_inverse=True)
        return Batch(
            self.account, self.key,
            [self.pairs[index] for index in used.tolist()],
            [self.series[index] for index in used.tolist()],
            pair, self.at[chosen], self.value[chosen], self.timed[chosen],
        )  # fmt: skip


class Clock:
    """A clock whose times never repeat within this process."""

    def __init__(self, now: Callable[[], int] = now_us) -> None:
        self._now = now
        self._last = 0

    def times(self, count: int) -> Times:
        first = max(self._now(), self._last + 1)
        self._last = first + count - 1
        return np.arange(first, first + count, dtype=np.int64)


def unpack(samples: Samples, clock: Clock, account: str, key: str) -> Batch:
    """Unpack the samples of a call; records without a time get the current time.

    Raises:
        InvalidRequest: the columns do not fit together, which the gateway never sends.
    """
    model = _column(samples.model, "<u2")
    at = _column(samples.at, "<i8").astype(np.int64)
    size = _column(samples.size, "<u2")
    metric = _column(samples.metric, "<u2")
    value = _column(samples.value, "<f8").astype(np.float64)
    fits = (
        len(model) == len(at) == len(size)
        and len(metric) == len(value) == size.sum() <= MAX_SAMPLES
        and (not len(model) or model.max() < len(samples.models))
        and (not len(metric) or metric.max() < len(samples.metrics))
        and bool(np.isfinite(value).all())
    )
    if not fits:
        raise InvalidRequest(f"columns do not fit together, or hold over {MAX_SAMPLES} samples")
    # Several addresses of a model, or one and its id, are the same model.
    first: dict[str, int] = {}
    places = [first.setdefault(name, number) for number, name in enumerate(samples.models)]
    if len(first) < len(places):
        model = np.array(places)[model]
    timed = at != 0
    if not timed.all():
        at[~timed] = clock.times(int((~timed).sum()))
    width = len(samples.metrics)
    if len(model) == 1 and len(metric) == width:  # most calls, in half the time
        pairs = [(samples.models[model[0]], samples.metrics[index]) for index in metric.tolist()]
        if len(set(pairs)) == width:
            at, timed = at.repeat(width), timed.repeat(width)
            return Batch(account, key, pairs, [], np.arange(width), at, value, timed)
    keys, pair = np.unique(
        np.repeat(model.astype(np.int64), size) * width + metric, return_inverse=True
    )
    pairs = [(samples.models[key // width], samples.metrics[key % width]) for key in keys.tolist()]
    at, timed = np.repeat(at, size), np.repeat(timed, size)
    return Batch(account, key, pairs, [], pair, at, value, timed)


def _column(packed: bytes, kind: str) -> NDArray[Any]:
    if len(packed) % np.dtype(kind).itemsize:
        raise InvalidRequest("a column ends within a number")
    return np.frombuffer(packed, kind)


@dataclass(slots=True)
class Extremes:
    """Extremes of one metric's newly recorded values; times in microseconds since 2000."""

    least: float
    least_at: int
    greatest: float
    greatest_at: int
    newest: int

    def after(self, over: int, newest: float) -> tuple[float, float]:
        """Return minimum and maximum; `newest` replaces one that is not later than `over`."""
        least = self.least if self.least_at > over else newest
        return least, self.greatest if self.greatest_at > over else newest

    def add(self, other: "Extremes") -> None:
        if other.least <= self.least:
            self.least, self.least_at = other.least, other.least_at
        if other.greatest >= self.greatest:
            self.greatest, self.greatest_at = other.greatest, other.greatest_at
        self.newest = max(self.newest, other.newest)


def extremes(batch: Batch) -> list[Extremes]:
    """Return the extremes of each (model, metric) pair."""
    order = np.argsort(batch.pair, kind="stable")
    pair, at, values = batch.pair[order], batch.at[order], batch.value[order]
    if len(order) == len(batch.pairs):  # one of each
        rows = zip(values.tolist(), at.tolist(), strict=True)
        return [Extremes(value, moment, value, moment, moment) for value, moment in rows]
    first = np.flatnonzero(np.diff(pair, prepend=-1))
    least, greatest = np.minimum.reduceat(values, first), np.maximum.reduceat(values, first)
    columns = (
        least,
        np.maximum.reduceat(np.where(values == least[pair], at, 0), first),
        greatest,
        np.maximum.reduceat(np.where(values == greatest[pair], at, 0), first),
        np.maximum.reduceat(at, first),
    )
    return [Extremes(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]


Moments = dict[int, dict[str, float]]


def moments(batch: Batch) -> Iterator[tuple[str, Moments]]:
    """Yield each model's metrics by time; for a large call, only those that may be published."""
    for model, indexes in batch.models.items():
        of_model = (
            np.arange(len(batch.pair))
            if len(indexes) == len(batch.pairs)
            else np.flatnonzero(np.isin(batch.pair, indexes))
        )
        newest = of_model[np.argsort(batch.at[of_model], kind="stable")]
        if len(newest) > MAX_PUBLISHED:
            at, backwards = batch.at[newest], newest[::-1]
            _, last = np.unique(batch.pair[backwards], return_index=True)
            published = np.union1d(np.unique(at)[-MAX_PUBLISHED:], batch.at[backwards[last]])
            newest = newest[np.isin(at, published)]
        metrics_by_time: Moments = {}
        for index in newest.tolist():
            metric = batch.pairs[batch.pair[index]][1]
            # If two values have the same time, the first counts, as in the database.
            metrics_by_time.setdefault(int(batch.at[index]), {}).setdefault(
                metric, batch.value[index].item()
            )
        yield model, metrics_by_time


def chosen(moments: Moments) -> list[int]:
    """Return the times whose metrics are published, ascending.

    They are the newest ones, and those that hold the newest value of a metric.
    """
    times = sorted(moments)
    newest = {metric: at for at in times for metric in moments[at]}
    return sorted({*times[-MAX_PUBLISHED:], *newest.values()})
