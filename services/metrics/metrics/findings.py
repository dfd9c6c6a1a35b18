"""Findings: the significant changes of a series, for programs and plots."""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from common.contracts.monitoring import Finding
from common.contracts.timestamps import from_us
from metrics.arrays import Floats, Times
from metrics.shape import Event, Shape, describe, needed, sharpen
from metrics.shape.cells import median
from metrics.shape.shape import MIN_STEP_US
from metrics.units import unit
from metrics.window import History

# A change matters if it exceeds the noise of single samples, or this share of the level.
MIN_CHANGE = 0.02
# Time that an answer takes once changes are found, and for each metric in addition: for the edges,
# the plots and the way back on a busy machine.
ANSWER_S, METRIC_S = 0.1, 0.03
# An hour of n samples of normal noise is about 2 * sqrt(2 ln n) deviations wide.
MIN_HOUR_SAMPLES = 4


@dataclass(slots=True)
class Changes:
    """The shape of a metric, and its significant events by time.

    Attributes:
        newest: the time of the newest sample, or the end of the last cell if it is unknown, in
            microseconds since 2000.
    """

    metric: str
    shape: Shape
    events: list[Event]
    newest: int

    @property
    def width(self) -> int:
        """The width of a cell (time bucket), in microseconds."""
        return self.shape.cells.width if self.shape.cells is not None else 0

    @property
    def last(self) -> int:
        """The end of the last cell, in microseconds since 2000."""
        cells = self.shape.cells
        return int(cells.at[-1]) + cells.width if cells is not None else 0

    def ended(self, now: int) -> bool:
        """Return whether the samples ended: a whole cell before now has none."""
        return now - self.last > self.width

    def findings(self) -> Iterable[Finding]:
        for event in self.events:
            measured = unit(self.metric)
            yield Finding(
                kind=event.kind,
                metric=self.metric,
                begin=from_us(event.begin),
                end=None if event.end is None else from_us(event.end),
                size=event.size,
                unit=f"{measured or '1'}/day" if event.kind == "slope" else measured,
                confidence=round(1 - event.chance, 4),
            )


def examine(histories: Mapping[str, History], deadline: float | None = None) -> dict[str, Shape]:
    """Describe the shapes of metrics until a deadline, with events placed to the time bucket.

    A metric is omitted if the caller would no longer wait for the answer: where much changes, a
    year of one metric takes up to half a second.

    Args:
        histories: by metric, the window.
        deadline: of the caller, in seconds since 1970; None for no limit.
    """
    until = math.inf if deadline is None else deadline - ANSWER_S - METRIC_S * len(histories)
    shapes = {}
    longest = 0.0
    for metric, history in histories.items():
        begun = time.time()
        if begun + longest > until:
            break
        shapes[metric] = describe(history)
        longest = max(longest, time.time() - begun)
    return shapes


def unplaced(
    histories: Mapping[str, History], shapes: Mapping[str, Shape]
) -> dict[str, list[tuple[int, int]]]:
    """Return, by metric, the time spans whose samples are needed to place events exactly."""
    return {
        metric: spans
        for metric, shape in shapes.items()
        if histories[metric].value is None and (spans := needed(shape))
    }


def find_changes(
    histories: Mapping[str, History],
    shapes: Mapping[str, Shape],
    samples: Mapping[str, tuple[Times, Floats]],
    since: int,
) -> dict[str, Changes]:
    """Place events at the exact samples, and return the significant events of each metric.

    Args:
        histories: by metric, the window.
        shapes: the shape of each window.
        samples: by metric, the samples in the spans that were `unplaced`.
        since: when the window begins, in microseconds since 2000.
    """
    changes = {}
    for metric, shape in shapes.items():
        history = histories[metric]
        if history.at is not None and history.value is not None:
            sharpen(shape, history.at, history.value)
        elif metric in samples:
            sharpen(shape, *samples[metric])
        newest = _newest(history, shape)
        for event in shape.events:
            event.begin = max(event.begin, since)
            _add_season(event, shape)
            if event.kind == "step" and newest - event.begin < MIN_STEP_US:
                event.kind = "incident"  # its cell began earlier than it
        changes[metric] = Changes(metric, shape, _significant(history, shape), newest)
    return changes


def _newest(history: History, shape: Shape) -> int:
    if history.at is not None:
        return int(history.at[-1])
    cells = shape.cells
    if cells is None:
        return 0
    last = int(cells.at[-1])
    # Of the last cell some are mostly not rolled up yet; late samples may be the only ones.
    return history.newest if history.newest >= last else last + cells.width


def _add_season(event: Event, shape: Shape) -> None:
    """Add the season's mean to an event's levels, so that they are those of the samples.

    That of an incident is of its own time: at night, both levels are those of the night.
    """
    if shape.cells is None or not shape.season:
        return
    within = slice(*event.edges) if event.kind == "incident" else slice(None)
    seasonal = float(np.average(shape.season.part[within], weights=shape.cells.count[within]))
    event.before += seasonal
    event.level += seasonal


def _significant(history: History, shape: Shape) -> list[Event]:
    """Return the events that are large enough to matter."""
    noise = sample_noise(history)

    def matters(event: Event) -> bool:
        moved = event.rise if event.kind == "slope" else event.level - event.before
        return abs(moved) > min(noise, MIN_CHANGE * abs(event.before))

    return [event for event in shape.events if matters(event)]


def sample_noise(history: History) -> float:
    """Estimate the noise of single samples from the range of each hour."""
    hours = history.hours
    many = hours[hours["count"] >= MIN_HOUR_SAMPLES]
    if not len(many):
        return 0.0
    widths = (many["maximum"] - many["minimum"]) / (2 * np.sqrt(2 * np.log(many["count"])))
    return median(widths)
