"""Samples that a listener missed: first their arrivals, then their values."""

from array import array
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

from pydantic import Field

from common.contracts import Event, Message, Rpc
from common.contracts.timestamps import Microseconds

# Writers of samples that may be alive at once.
MAX_WRITERS = 256
# Microseconds since 2000 when a writer committed, times `MAX_WRITERS`, plus the writer's number.
MAX_ARRIVAL = 2**63 - 1
Arrival = Annotated[int, Field(ge=0, le=MAX_ARRIVAL)]


def arrival_of(us: int, writer: int = 0) -> int:
    """Return the arrival, one integer, of a commit at a time in microseconds since 2000."""
    return us * MAX_WRITERS + writer


def last_arrival_of(us: int) -> int:
    """Return the highest arrival of any writer at a time in microseconds since 2000."""
    return min(arrival_of(us, MAX_WRITERS - 1), MAX_ARRIVAL)


def us_of(arrival: int) -> int:
    """Return when a writer committed, in microseconds since 2000."""
    return arrival // MAX_WRITERS


class Position(Message):
    """Position of a listener among a model's samples and alerts.

    `places`: for each writer (the lowest byte of an arrival) the last sample
    received, by its arrival and its time. `floor`: every sample of the other
    writers up to this arrival was received. `alerted`: the time of the last alert.
    """

    floor: Arrival
    alerted: Microseconds
    places: list[tuple[Arrival, Microseconds]]


class Moments(Message):
    """Moments of samples, as two columns of little-endian int64: `Arrival` and time."""

    arrival: bytes
    at: bytes

    @classmethod
    def pack(cls, moments: Sequence[tuple[int, int]]) -> "Moments":
        arrival, at = (array("q", [moment[n] for moment in moments]).tobytes() for n in (0, 1))
        return cls(arrival=arrival, at=at)

    def unpack(self) -> list[tuple[int, int]]:
        return list(zip(array("q", self.arrival), array("q", self.at), strict=True))

    def part(self, first: int, last: int) -> "Moments":
        """Return the moments from number `first` up to, but not including, `last`."""
        return Moments(arrival=self.arrival[8 * first : 8 * last], at=self.at[8 * first : 8 * last])

    def __len__(self) -> int:
        return len(self.arrival) // 8


class HistoryRequest(Message):
    """Request for the moments of a model's samples after either `since` or `position`.

    `since`: the time of the last sample received, whenever it arrived; without
    such a sample, the moment from which nothing was received.
    """

    model_id: str
    since: datetime | None = None
    position: Position | None = None
    metrics: list[str] | None = None
    limit: Annotated[int, Field(ge=1, le=10_000)] = 10_000


class History(Message):
    """Missed moments in order of arrival; unless `complete`, only the newest.

    `position`: the one that the request's `since` stands for.
    """

    moments: Moments
    complete: bool
    position: Position


class RecallRequest(Message):
    """Request for the samples of some moments of a `History`."""

    model_id: str
    moments: Moments
    metrics: list[str] | None = None


class MetricUpdate(Message):
    """Values of one model at one moment, as subscribers of the socket receive them.

    `arrival` orders the commits of one writer, and history across writers.
    """

    model_id: str
    timestamp: str
    metrics: dict[str, float]
    arrival: int = 0


class Recalled(Message):
    """Samples of the first `count` requested moments, without samples deleted since."""

    updates: list[MetricUpdate]
    count: int


HISTORY = Rpc("rpc.metrics.history", HistoryRequest, History, timeout=1.8, repeatable=True)
RECALL = Rpc("rpc.metrics.recall", RecallRequest, Recalled, timeout=1.8, repeatable=True)

# The last token is the model's id. One message per moment; only the newest of a large batch.
METRICS_RECORDED = Event("event.metrics.recorded", MetricUpdate)
