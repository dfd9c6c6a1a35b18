"""Plots of throughput, latency, memory and cost against batch size, as plain JSON.

All formats show the same series. A size without a figure is a gap, never a zero.
"""

from typing import Any

from common.contracts.figures import Results
from common.contracts.monitoring import PlotFormat

# Name, axis title, unit.
QUANTITIES = (
    ("throughput", "Throughput", "sample/s"),
    ("latency", "Latency of a batch", "ms"),
    ("memory_usage", "Peak memory", "MiB"),
    ("cost_per_inference", "Cost per inference", "USD"),
)


def draw(results: Results, style: PlotFormat) -> dict[str, dict[str, Any]]:
    """Return one figure per quantity, as plain JSON."""
    drawn = {"plotly": _plotly, "vega-lite": _vega_lite, "series": _columns}[style]
    order = sorted(range(len(results.batch_sizes)), key=results.batch_sizes.__getitem__)
    sizes = [results.batch_sizes[i] for i in order]
    intervals = {
        point.batch_size: point.latency.mean_interval
        for point in results.points
        if point.latency.mean_interval
    }
    figures = {}
    for name, title, unit in QUANTITIES:
        values = [getattr(results, name)[i] for i in order]
        bounds = _bounds(name, sizes, intervals)
        figures[name] = drawn(title, unit, sizes, values, bounds)
    return figures


Values = list[float | None]


def _bounds(name: str, sizes: list[int], intervals: dict[int, Any]) -> tuple[Values, Values] | None:
    """Return the bounds of the 95 % intervals by size; None for a quantity without intervals."""
    if name == "latency":
        pairs = [(i.low, i.high) if (i := intervals.get(s)) else (None, None) for s in sizes]
    elif name == "throughput":
        pairs = [
            (s / i.high * 1000, s / i.low * 1000) if (i := intervals.get(s)) and i.low > 0
            else (None, None)
            for s in sizes
        ]  # fmt: skip
    else:
        return None
    return [low for low, _ in pairs], [high for _, high in pairs]


def _columns(
    title: str, unit: str, sizes: list[int], values: Values, bounds: tuple[Values, Values] | None
) -> dict[str, Any]:
    columns: dict[str, Any] = {"title": title, "unit": unit, "batchSize": sizes, "value": values}
    if bounds:
        columns |= {"low": bounds[0], "high": bounds[1]}
    return columns


def _plotly(
    title: str, unit: str, sizes: list[int], values: Values, bounds: tuple[Values, Values] | None
) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "mode": "lines+markers",
        "name": title,
        "x": sizes,
        "y": values,
        "connectgaps": False,
    }
    if bounds:
        low, high = bounds
        trace["error_y"] = {
            "type": "data",
            "symmetric": False,
            "array": [_minus(h, v) for h, v in zip(high, values, strict=True)],
            "arrayminus": [_minus(v, w) for v, w in zip(values, low, strict=True)],
        }
    return {
        "data": [trace],
        "layout": {
            "title": {"text": title},
            "xaxis": {"title": {"text": "Batch size"}, "type": "log", "tickvals": sizes},
            "yaxis": {"title": {"text": f"{title} [{unit}]"}, "rangemode": "tozero"},
        },
    }


def _vega_lite(
    title: str, unit: str, sizes: list[int], values: Values, bounds: tuple[Values, Values] | None
) -> dict[str, Any]:
    low, high = bounds or ([None] * len(sizes), [None] * len(sizes))
    rows = [
        {"batchSize": size, "value": value, "low": lowest, "high": highest}
        for size, value, lowest, highest in zip(sizes, values, low, high, strict=True)
    ]
    x = {"field": "batchSize", "type": "quantitative", "scale": {"type": "log", "base": 2}}
    return {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "title": title,
        "data": {"values": rows},
        "encoding": {"x": {**x, "title": "Batch size"}},
        "layer": [
            {
                "mark": {"type": "line", "point": True},
                "encoding": {
                    "y": {"field": "value", "type": "quantitative", "title": f"{title} [{unit}]"}
                },
            },
            {
                "mark": "rule",
                "encoding": {
                    "y": {"field": "low", "type": "quantitative"},
                    "y2": {"field": "high"},
                },
            },
        ],
    }


def _minus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left - right
