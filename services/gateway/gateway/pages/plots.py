"""Plots of a model's metrics as columns, the form in which the pages' charts take them."""

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import groupby
from typing import Any

import orjson

from common.bus import Bus
from common.contracts.monitoring import Monitoring
from common.contracts.reading import MAX_PAGE_SAMPLES, READ_SAMPLES, SamplesRequest
from common.contracts.recording import USUAL_METRICS
from common.errors import ServiceError

HOUR = timedelta(hours=1)
# Points that a chart has room for, and the buckets of an hour that has more samples, in seconds.
MAX_POINTS = 500
WIDTHS_S = (1, 5, 15, 60)
# Pages of samples read for one page: half a second's work of a metrics service.
MAX_PAGES = 16
UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))

Plot = dict[str, Any]
# The time in seconds since 1970, the mean, the minimum and the maximum.
Point = tuple[float, float, float, float]


def coarse(monitoring: Monitoring) -> list[str]:
    """Return the metrics whose plots have buckets instead of samples."""
    return [metric for metric, plot in monitoring.plots.items() if plot.get("bucketSeconds")]


async def refine(bus: Bus, model: str, monitoring: Monitoring) -> None:
    """Replace the buckets of a day's plots by the newest hour's samples, or finer buckets.

    A plot stays as it is where the hour has too many samples to read, or the service is away.
    """
    metrics = coarse(monitoring)
    since = datetime.now(UTC) - HOUR
    pages = max(1, MAX_PAGES // max(1, len(metrics)))
    found = await asyncio.gather(*(_read(bus, model, metric, since, pages) for metric in metrics))
    for metric, samples in zip(metrics, found, strict=True):
        if samples:
            monitoring.plots[metric] = {**monitoring.plots[metric], **_reduced(samples)}


async def _read(
    bus: Bus, model: str, metric: str, since: datetime, pages: int
) -> list[tuple[float, float]] | None:
    """Return a metric's samples since a time; None if they are more than the pages hold."""
    samples: list[tuple[float, float]] = []
    cursor = None
    for _ in range(pages):
        request = SamplesRequest(
            model_id=model, metric=metric, from_=since, limit=MAX_PAGE_SAMPLES, cursor=cursor
        )
        try:
            # Validating ten thousand samples would take longer than reading them.
            page = orjson.loads(await bus.pass_on(READ_SAMPLES, request))
        except ServiceError:
            return None
        samples += [
            (datetime.fromisoformat(sample["timestamp"]).timestamp(), sample["value"])
            for sample in page["samples"]
        ]
        cursor = page.get("next")
        if cursor is None:
            return samples
    return None


def _reduced(samples: list[tuple[float, float]]) -> Plot:
    points: list[Point] = [(at, value, value, value) for at, value in samples]
    width = None
    for seconds in WIDTHS_S:
        if len(points) <= MAX_POINTS:
            break
        points, width = list(_buckets(samples, seconds)), seconds
    time, mean, minimum, maximum = (list(column) for column in zip(*points, strict=True))
    columns = {"time": time, "mean": mean, "minimum": minimum, "maximum": maximum}
    return {"columns": columns, "bucketSeconds": width}


def _buckets(samples: Sequence[tuple[float, float]], seconds: int) -> Iterator[Point]:
    for number, group in groupby(samples, key=lambda sample: sample[0] // seconds):
        values = [value for _, value in group]
        yield number * seconds, sum(values) / len(values), min(values), max(values)


def charts(monitoring: Monitoring, window: str) -> list[dict[str, Any]]:
    """Return the plots' columns as the charts take them; times in seconds since 1970."""
    since = (datetime.now(UTC) - HOUR).timestamp() if window == "hour" else None
    drawn = []
    for metric, plot in sorted(monitoring.plots.items(), key=lambda plot: rank(plot[0])):
        if not plot:
            continue
        columns = plot["columns"]
        times = [_seconds(time) for time in columns["time"]]
        first = 0 if since is None else sum(time < since for time in times)
        if first == len(times):
            continue
        series = {
            "name": metric,
            "value": columns["mean"][first:],
            "low": columns["minimum"][first:],
            "high": columns["maximum"][first:],
        }
        drawn.append(
            {
                "metric": metric,
                "title": plot["title"],
                "unit": plot["unit"] or "",
                "time": True,
                "x": times[first:],
                "series": [series],
                "marks": [_mark(mark) for mark in plot["marks"]],
                "width": plot["bucketSeconds"],
                "caption": _caption(plot["bucketSeconds"], len(times) - first),
            }
        )
    return drawn


def _seconds(time: str | float) -> float:
    return datetime.fromisoformat(time).timestamp() if isinstance(time, str) else time


def _mark(mark: dict[str, Any]) -> dict[str, Any]:
    end = mark["end"]
    return {
        "kind": mark["kind"],
        "begin": _seconds(mark["begin"]),
        "end": None if end is None else _seconds(end),
    }


def _caption(width: int | None, count: int) -> str:
    if width is None:
        return f"{count:,} sample{'s' if count > 1 else ''}"
    size, unit = next((size, unit) for size, unit in UNITS if width % size == 0)
    number = width // size
    each = unit if number == 1 else f"{number} {unit}s"
    return f"mean, minimum and maximum of each {each}"


def titles(monitoring: Monitoring) -> dict[str, str]:
    """Return the titles of the metrics whose statistics are shown."""
    found = {metric: plot["title"] for metric, plot in monitoring.plots.items() if plot}
    return {**found, "costs": found.get("cost_per_inference", "Cost per inference")}


def rank(metric: str) -> tuple[int, str]:
    """Order usual metrics first, throughput before latency; the others by name."""
    usual = USUAL_METRICS.index(metric) if metric in USUAL_METRICS else len(USUAL_METRICS)
    return usual, metric
