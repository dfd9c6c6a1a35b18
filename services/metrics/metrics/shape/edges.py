"""The placement of the edges (start and end) of events at exact samples."""

import math

import numpy as np

from metrics.arrays import Floats, Times
from metrics.shape.cells import MEDIAN_DEVIATION
from metrics.shape.shape import Event, Shape

# Cells around an edge whose samples are read.
AROUND = 2
# Max cells of an incident whose two ends are placed together.
SHORT = 4
# Min samples of a short incident; fewer are a group of outliers.
MIN_INCIDENT_SAMPLES = 6
# Min height of a short incident, in deviations of the other samples; a lower one is outliers.
MIN_INCIDENT_HEIGHT = 1.75
# Max edges whose samples are read; further edges stay on their cells.
MAX_EDGES = 24


def needed(shape: Shape) -> list[tuple[int, int]]:
    """Return the time spans whose samples `sharpen` needs to locate the edges of events."""
    spans: list[tuple[int, int]] = []
    for event in shape.events:
        if _short(shape, event):
            spans.append(_around(shape, event))
        else:
            edges = (_span(shape, place) for place in _places(event))
            spans += [span for span in edges if span is not None]
    return spans[:MAX_EDGES]


def sharpen(shape: Shape, at: Times, value: Floats) -> None:
    """Move the edges of events to the samples where the level changes.

    Samples are ordered by time. A short incident of too few samples is outliers, and dropped.
    """
    events = []
    moved: dict[int, int] = {}
    for event in shape.events:
        if _short(shape, event):
            if _place_whole(shape, event, at, value):
                events.append(event)
            continue
        events.append(event)
        for place in _places(event):
            span = _span(shape, place)
            if span is None or place in moved:
                continue
            first, last = np.searchsorted(at, span)
            if last - first >= 2:
                edge = _edge(shape, place, at[first:last], value[first:last])
                if edge is not None:
                    moved[place] = edge
    shape.events = events
    for event in events:
        if event.kind != "slope" and not _short(shape, event):
            _move(event, moved)
            _measure(shape, event)


def _move(event: Event, moved: dict[int, int]) -> None:
    begin, end = event.edges
    event.begin = moved.get(begin, event.begin)
    if end is not None:
        event.end = moved.get(end, event.end or 0)


def _measure(shape: Shape, event: Event) -> None:
    """Refine an incident's size and level by the cells wholly within it, if there are any."""
    cells = shape.cells
    if cells is None or event.kind != "incident":
        return
    within = slice(*_reach(shape, event))
    begin = cells.at[within]
    whole = begin >= event.begin
    if event.end is not None:
        whole &= begin + cells.width <= event.end
    if whole.any():
        seasonal = shape.season.part if shape.season else 0.0
        left = (cells.mean - shape.fitted - seasonal)[within][whole]
        moved = float(np.average(left, weights=cells.count[within][whole]))
        event.size += moved
        event.level += moved


def _short(shape: Shape, event: Event) -> bool:
    first, last = _reach(shape, event)
    return event.kind == "incident" and last - first <= SHORT


def _reach(shape: Shape, event: Event) -> tuple[int, int]:
    first, last = event.edges
    return first, len(shape.fitted) if last is None else last


def _place_whole(shape: Shape, event: Event, at: Times, value: Floats) -> bool:
    """Place both ends of a short incident; return False if it is only outliers.

    The cells at the ends may contain little of the incident, so its samples determine its size.
    """
    first, last = np.searchsorted(at, _around(shape, event))
    at, value = at[first:last], value[first:last]
    if not len(at):
        return True
    distance = (value - _season(shape, at) - event.before) * np.sign(event.size)
    size = abs(event.size)
    for _ in range(2):
        nearer = np.clip(distance - size / 2, -size, size)
        sums = np.concatenate([[0.0], np.cumsum(nearer)])
        least = np.minimum.accumulate(sums)
        stop = int(np.argmax(sums - least))
        start = int(np.argmin(sums[: stop + 1]))
        if stop == start:
            return False
        size = float(np.median(distance[start:stop]))
    assert shape.cells is not None
    if shape.cells.dense:
        others = np.concatenate([distance[:start], distance[stop:]])
        usual = float(np.median(np.abs(others - np.median(others)))) if len(others) else 0.0
        if (
            stop - start < MIN_INCIDENT_SAMPLES
            or size < MIN_INCIDENT_HEIGHT * usual / MEDIAN_DEVIATION
        ):
            return False
    event.begin = int(at[start])
    if event.end is not None or stop < len(at):
        event.end = int(at[min(stop, len(at) - 1)])
    event.size = math.copysign(size, event.size)
    event.level = event.before + event.size
    return True


def _around(shape: Shape, event: Event) -> tuple[int, int]:
    cells = shape.cells
    assert cells is not None
    first, last = _reach(shape, event)
    begin, end = max(first - AROUND, 0), min(last + AROUND, len(cells))
    return int(cells.at[begin]), int(cells.at[end - 1]) + cells.width


def _season(shape: Shape, at: Times) -> Floats:
    """Return how far the season moves the value at each of some times."""
    cells = shape.cells
    if cells is None or not shape.season:
        return np.zeros(len(at))
    return np.interp(at, cells.at + cells.width // 2, shape.season.part)


def _places(event: Event) -> list[int]:
    if event.kind == "slope":
        return []
    return [place for place in event.edges if place]


def _span(shape: Shape, place: int) -> tuple[int, int] | None:
    """Return the span in which an edge may be, at most half-way to the next edges."""
    cells = shape.cells
    if cells is None:
        return None
    others = sorted({edge for event in shape.events for edge in _places(event)} - {place})
    low = max([edge for edge in others if edge < place], default=0)
    high = min([edge for edge in others if edge > place], default=len(cells))
    # A cell that holds the edge may be counted on either side of it.
    low = max((low + place) // 2, place - AROUND) if low else max(place - AROUND, 0)
    high = min(-(-(high + place) // 2), place + AROUND) if high < len(cells) else place + AROUND
    high = min(max(high, place + 1), len(cells))
    low = min(low, place - 1)
    return int(cells.at[low]), int(cells.at[high - 1]) + cells.width


def _edge(shape: Shape, place: int, at: Times, value: Floats) -> int | None:
    """Return the time of the new level's first sample, or None if no sample separates the levels.

    The edge has the least squared distances, each clipped to the change's size: an outlier is no
    edge.
    """
    cells = shape.cells
    assert cells is not None
    before, after = shape.fitted[place - 1], shape.fitted[place]
    size = abs(after - before)
    if size == 0:
        return None
    nearer = np.clip(
        (value - _season(shape, at) - (before + after) / 2) * np.sign(after - before), -size, size
    )
    # Up to each sample, those before it count for the old level, the others for the new.
    lost = np.concatenate([[0.0], np.cumsum(nearer)])
    edge = int(np.argmin(lost))
    if edge in {0, len(at)}:
        return None
    return int(at[edge])
