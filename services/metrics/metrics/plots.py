"""Plots of one series: a Plotly figure, a Vega-Lite specification, or plain columns.

A window with more samples than points to draw is divided into buckets of
time; each shows its mean, minimum and maximum, so that no outlier disappears,
and the subtitle says so.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

import numpy as np

from common.contracts.timestamps import DAY_US, EPOCH, to_us
from common.quantities import counted
from metrics.arrays import Times
from metrics.findings import Changes
from metrics.units import title, unit
from metrics.window import MAX_POINTS, WIDTHS_S, History, bucket, spans

# Samples closer together are shown in the middle of a minute: an axis in microseconds would not
# show the time.
MIN_RANGE_US = 60_000_000
# Blue of Okabe and Ito's palette, which colour-blind people can tell apart.
LINE_COLOUR = "#0072b2"
BAND_COLOUR = "rgba(0, 114, 178, 0.2)"
# The same palette's vermilion, for findings.
MARK_COLOUR = "#d55e00"
# Costs per inference are drawn per million: an axis would show them as "20n", or 0.00000002.
MILLION = 1e6
# In a shorter span Vega-Lite's ticks are hours apart, and each label has hour and date. In a longer
# one they are days apart, which it does by itself only from two months on.
MIN_DATE_TICKS_DAYS, MAX_DATE_TICKS_DAYS, MAX_DATE_TICKS = 10, 60, 15
HOUR_AND_DATE = "[utcFormat(datum.value, '%H:%M'), utcFormat(datum.value, '%-d %b')]"


@dataclass(frozen=True, slots=True)
class Points:
    """The points of a plot: samples, or buckets of them.

    Attributes:
        width: of a bucket in seconds; 0 where each point is a sample.
        span: what the time axis shows, if not from the first point to the last.
        unit: of the values; None if unknown.
    """

    metric: str
    time: list[str]
    mean: list[float]
    minimum: list[float]
    maximum: list[float]
    width: int
    points_in: int
    span: list[str] | None
    unit: str | None

    @property
    def points(self) -> dict[str, int]:
        return {"pointsIn": self.points_in, "pointsOut": len(self.time)}

    @property
    def axis(self) -> str:
        return f"{title(self.metric)} ({self.unit})" if self.unit else title(self.metric)

    @property
    def subtitle(self) -> str:
        if not self.width:
            return counted(self.points_in, "sample")
        return (
            f"mean of each {_duration(self.width)}, with its minimum and maximum;"
            f" {counted(self.points_in, 'sample')}"
        )

    def drawn(self) -> "Points":
        """Return the points to draw, with costs per million instead of one."""
        if not self.metric.startswith("cost_per_inference"):
            return self
        mean, minimum, maximum = (
            [value * MILLION for value in values]
            for values in (self.mean, self.minimum, self.maximum)
        )
        unit = f"{self.unit} per million"
        return replace(self, mean=mean, minimum=minimum, maximum=maximum, unit=unit)


@dataclass(frozen=True, slots=True)
class PlotMark:
    """A finding as drawn in a plot: an incident with an end, or a step without one."""

    kind: str
    begin: str
    end: str | None


def draw(
    metric: str, history: History, style: str, changes: Changes | None = None
) -> dict[str, Any]:
    """Draw a metric in one of three formats; return {} if it has no samples."""
    if not history.count:
        return {}
    points = reduce(metric, history)
    marks = _marks(changes) if changes else []
    if style == "plotly":
        return to_plotly(points.drawn(), marks)
    if style == "vega-lite":
        return to_vega_lite(points.drawn(), marks)
    return to_columns(points, marks)


def _marks(changes: Changes) -> list[PlotMark]:
    """Return the marks to draw for findings; an ongoing incident extends to the last sample."""
    marks = []
    for event in changes.events:
        if event.kind == "incident":
            end = changes.newest if event.end is None else event.end
            marks.append(PlotMark("incident", *_to_text(np.array([event.begin, end]))))
        elif event.kind == "step":
            marks.append(PlotMark("step", _to_text(np.array([event.begin]))[0], None))
    return marks


def reduce(metric: str, history: History) -> Points:
    """Return few samples as points, or many in buckets."""
    entries, width = history.hours, 3600
    if history.fine is not None:
        entries, width = history.fine, history.width
    if history.at is not None and history.value is not None:
        entries, width = spans(history.at, history.value), 0
    wider = (seconds for seconds in WIDTHS_S if seconds > width)
    points = entries
    while len(points) > MAX_POINTS:
        width = next(wider)
        points = bucket(entries, timedelta(seconds=width))
    return Points(
        metric,
        _to_text(points["at"]),
        (points["total"] / points["count"]).tolist(),
        points["minimum"].tolist(),
        points["maximum"].tolist(),
        width,
        history.count,
        _span(points["at"]),
        unit(metric),
    )


def _span(at: Times) -> list[str] | None:
    missing = MIN_RANGE_US - int(at[-1] - at[0])
    if missing <= 0:
        return None
    return _to_text(np.array([at[0] - missing // 2, at[-1] + missing // 2]))


def _to_text(at: Times) -> list[str]:
    return _texts(at.tobytes())


@lru_cache(maxsize=16)
def _texts(packed: bytes) -> list[str]:
    """Format times; cached, since the metrics of a model mostly have the same times."""
    at = np.frombuffer(packed, np.int64)
    times = np.datetime64(EPOCH.replace(tzinfo=None), "us") + at.astype("timedelta64[us]")
    whole_seconds = not (at % 1_000_000).any()
    return [
        f"{time}Z" for time in np.datetime_as_string(times, unit="s" if whole_seconds else "us")
    ]


def _duration(seconds: int) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            number = seconds // size
            return name if number == 1 else f"{number} {name}s"
    return "second" if seconds == 1 else f"{seconds} seconds"


def to_columns(points: Points, marks: Sequence[PlotMark] = ()) -> dict[str, Any]:
    return {
        "title": title(points.metric),
        "unit": points.unit,
        "bucketSeconds": points.width or None,
        "columns": {
            "time": points.time,
            "mean": points.mean,
            "minimum": points.minimum,
            "maximum": points.maximum,
        },
        "marks": [asdict(mark) for mark in marks],
        **points.points,
    }


def to_plotly(points: Points, marks: Sequence[PlotMark] = ()) -> dict[str, Any]:
    line = {
        "type": "scatter",
        "name": "mean" if points.width else title(points.metric),
        "x": points.time,
        "y": points.mean,
        "mode": "lines" if len(points.time) > 100 else "lines+markers",
        "line": {"color": LINE_COLOUR, "width": 2},
    }
    edge = {
        "type": "scatter",
        "x": points.time,
        "mode": "lines",
        "line": {"color": LINE_COLOUR, "width": 0},
        "showlegend": False,
    }
    # The maximum first: the minimum is filled up to it.
    fill = {"fill": "tonexty", "fillcolor": BAND_COLOUR}
    band = [
        {**edge, "name": "maximum", "y": points.maximum},
        {**edge, "name": "minimum", "y": points.minimum, **fill},
    ]
    return {
        "data": [*(band if points.width else ()), line],
        "layout": {
            "title": {"text": title(points.metric), "subtitle": {"text": points.subtitle}},
            "xaxis": {
                "type": "date",
                "title": {"text": "Time (UTC)"},
                **({"range": points.span} if points.span else {}),
            },
            # Otherwise $0.0001 would be labelled 100µ.
            "yaxis": {
                "title": {"text": points.axis},
                "rangemode": "tozero",
                "exponentformat": "none",
                "automargin": True,
            },
            "shapes": [_shape(mark) for mark in marks],
            "hovermode": "x unified",
            "showlegend": False,
            "meta": points.points,
        },
    }


def _shape(mark: PlotMark) -> dict[str, Any]:
    """Return a Plotly shape of full height: a stripe, or a line for a mark without an end."""
    place = {"x0": mark.begin, "x1": mark.end or mark.begin, "y0": 0, "y1": 1, "yref": "paper"}
    if mark.end is None:
        line = {"color": MARK_COLOUR, "width": 2, "dash": "dash"}
        return {"type": "line", "name": mark.kind, "line": line, **place}
    return {
        "type": "rect",
        "name": mark.kind,
        "fillcolor": MARK_COLOUR,
        "opacity": 0.15,
        "line": {"width": 0},
        "layer": "below",
        **place,
    }


def to_vega_lite(points: Points, marks: Sequence[PlotMark] = ()) -> dict[str, Any]:
    columns = (points.time, points.mean, points.minimum, points.maximum)
    scale = {"type": "utc", **({"domain": points.span} if points.span else {})}
    time = {
        "field": "time",
        "type": "temporal",
        "title": "Time (UTC)",
        "scale": scale,
        "axis": _time_axis(points),
    }
    axis = {"type": "quantitative", "title": points.axis}
    band = {
        "mark": {"type": "area", "color": LINE_COLOUR, "opacity": 0.2},
        "encoding": {
            "x": time,
            "y": {"field": "minimum", **axis},
            "y2": {"field": "maximum"},
        },
    }
    line = {
        "mark": {"type": "line", "color": LINE_COLOUR, "point": len(points.time) <= 100},
        "encoding": {"x": time, "y": {"field": "mean", **axis}},
    }
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "title": {"text": title(points.metric), "subtitle": points.subtitle},
        "width": "container",
        "height": 300,
        "data": {
            "values": [
                {"time": at, "mean": mean, "minimum": least, "maximum": greatest}
                for at, mean, least, greatest in zip(*columns, strict=True)
            ]
        },
        "layer": [
            *(_layer(mark, time) for mark in marks),
            *([band, line] if points.width else [line]),
        ],
        "usermeta": points.points,
    }


def _time_axis(points: Points) -> dict[str, Any]:
    """Return a time axis with dates in its labels, which Vega-Lite omits where space is short."""
    first, last = (to_us(datetime.fromisoformat(points.time[end])) for end in (0, -1))
    days = (last - first) / DAY_US
    if days < MIN_DATE_TICKS_DAYS:
        return {"labelExpr": HOUR_AND_DATE}
    axis: dict[str, Any] = {"format": "%-d %b", "labelOverlap": "greedy", "labelSeparation": 6}
    if days < MAX_DATE_TICKS_DAYS:
        axis["tickCount"] = {"interval": "day", "step": math.ceil(days / MAX_DATE_TICKS)}
    return axis


def _layer(mark: PlotMark, time: dict[str, Any]) -> dict[str, Any]:
    encoding = {"x": {**time, "field": "begin"}}
    if mark.end is None:
        drawn: dict[str, Any] = {
            "type": "rule",
            "color": MARK_COLOUR,
            "size": 2,
            "strokeDash": [6, 4],
        }
    else:
        drawn = {"type": "rect", "color": MARK_COLOUR, "opacity": 0.15}
        encoding["x2"] = {"field": "end"}
    return {"data": {"values": [asdict(mark)]}, "mark": drawn, "encoding": encoding}
