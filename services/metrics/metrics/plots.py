"""One series, drawn three ways: for Plotly, for Vega-Lite, or as plain columns.

A window with more samples than points to draw is divided into buckets of
time; each shows its mean and the least and the greatest sample in it, so that
no outlier disappears, and the plot says that it was done.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np

from common.contracts.monitoring import EPOCH
from metrics.arrays import Times
from metrics.units import title, unit
from metrics.window import MOST_POINTS, WIDTHS, History, bucket, spans

# What lies closer together is shown in the middle of a minute: an axis of
# microseconds tells nobody when it was.
LEAST_RANGE = 60_000_000
# Blue of Okabe and Ito's palette, which colour-blind people tell apart.
COLOUR = "#0072b2"
BAND = "rgba(0, 114, 178, 0.2)"


@dataclass(frozen=True, slots=True)
class Points:
    """What is drawn: one entry for each point.

    `width`: of a bucket in seconds, 0: none. `span`: what the axis of time
    shows, where that is not from the first point to the last.
    """

    metric: str
    time: list[str]
    mean: list[float]
    minimum: list[float]
    maximum: list[float]
    width: int
    points_in: int
    span: list[str] | None

    @property
    def points(self) -> dict[str, int]:
        return {"pointsIn": self.points_in, "pointsOut": len(self.time)}

    @property
    def axis(self) -> str:
        return (
            f"{title(self.metric)} ({unit(self.metric)})"
            if unit(self.metric)
            else title(self.metric)
        )

    @property
    def subtitle(self) -> str:
        if not self.width:
            return f"{self.points_in:,} sample{'s' if self.points_in > 1 else ''}"
        return (
            f"mean of each {_duration(self.width)}, with its least and greatest sample;"
            f" {self.points_in:,} samples"
        )


def draw(metric: str, history: History, style: str) -> dict[str, Any]:
    """The plot of a metric in one of the three formats; {} when there is nothing to draw."""
    if not history.count:
        return {}
    points = reduce(metric, history)
    if style == "plotly":
        return to_plotly(points)
    return to_vega_lite(points) if style == "vega-lite" else to_columns(points)


def reduce(metric: str, history: History) -> Points:
    """The samples themselves where they are few, else buckets."""
    entries, width = history.hours, 3600
    if history.fine is not None:
        entries, width = history.fine, history.width
    if history.at is not None and history.value is not None:
        entries, width = spans(history.at, history.value), 0
    wider = (seconds for seconds in WIDTHS if seconds > width)
    points = entries
    while len(points) > MOST_POINTS:
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
    )


def _span(at: Times) -> list[str] | None:
    missing = LEAST_RANGE - int(at[-1] - at[0])
    if missing <= 0:
        return None
    return _to_text(np.array([at[0] - missing // 2, at[-1] + missing // 2]))


def _to_text(at: Times) -> list[str]:
    times = np.datetime64(EPOCH.replace(tzinfo=None), "us") + at.astype("timedelta64[us]")
    whole = not (at % 1_000_000).any()
    return [f"{time}Z" for time in np.datetime_as_string(times, unit="s" if whole else "us")]


def _duration(seconds: int) -> str:
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds % size == 0:
            number = seconds // size
            return name if number == 1 else f"{number} {name}s"
    return "second" if seconds == 1 else f"{seconds} seconds"


def to_columns(points: Points) -> dict[str, Any]:
    return {
        "title": title(points.metric),
        "unit": unit(points.metric),
        "bucketSeconds": points.width or None,
        "columns": {
            "time": points.time,
            "mean": points.mean,
            "minimum": points.minimum,
            "maximum": points.maximum,
        },
        **points.points,
    }


def to_plotly(points: Points) -> dict[str, Any]:
    line = {
        "type": "scatter",
        "name": "mean" if points.width else title(points.metric),
        "x": points.time,
        "y": points.mean,
        "mode": "lines" if len(points.time) > 100 else "lines+markers",
        "line": {"color": COLOUR, "width": 2},
    }
    edge = {
        "type": "scatter",
        "x": points.time,
        "mode": "lines",
        "line": {"color": COLOUR, "width": 0},
        "showlegend": False,
    }
    # The greatest first: the least is filled up to it.
    band = [
        {**edge, "name": "greatest", "y": points.maximum},
        {**edge, "name": "least", "y": points.minimum, "fill": "tonexty", "fillcolor": BAND},
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
            # Without it a cost of $0.0001 is written as 100µ.
            "yaxis": {
                "title": {"text": points.axis},
                "rangemode": "tozero",
                "exponentformat": "none",
                "automargin": True,
            },
            "hovermode": "x unified",
            "showlegend": False,
            "meta": points.points,
        },
    }


def to_vega_lite(points: Points) -> dict[str, Any]:
    columns = (points.time, points.mean, points.minimum, points.maximum)
    scale = {"type": "utc", **({"domain": points.span} if points.span else {})}
    time = {"field": "time", "type": "temporal", "title": "Time (UTC)", "scale": scale}
    axis = {"type": "quantitative", "title": points.axis}
    band = {
        "mark": {"type": "area", "color": COLOUR, "opacity": 0.2},
        "encoding": {
            "x": time,
            "y": {"field": "minimum", **axis},
            "y2": {"field": "maximum"},
        },
    }
    line = {
        "mark": {"type": "line", "color": COLOUR, "point": len(points.time) <= 100},
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
        "layer": [band, line] if points.width else [line],
        "usermeta": points.points,
    }
