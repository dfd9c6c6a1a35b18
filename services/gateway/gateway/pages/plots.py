"""Plots of a model's metrics as columns, for the pages' charts."""

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
from common.errors import ServiceError, Unavailable
from common.quantities import counted
from gateway.pages.figures import visible

HOUR = timedelta(hours=1)
# Points that a chart has room for, and the buckets of an hour that has more samples, in seconds.
MAX_POINTS = 500
WIDTHS_S = (1, 5, 15, 60)
# Samples read for one page of charts: an hour of one a second for each of its 16 metrics.
MAX_SAMPLES = 60_000
# A metrics replica answers 8 reads at a time, those of all accounts.
MAX_CONCURRENT_READS = 2
# Costs are shown as those of runs are: one inference costs too little to read. Rules and alerts
# keep the metric's own unit, as the API does.
INFERENCES = 1_000
COST = "cost_per_inference"
UNITS = ((86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))

Plot = dict[str, Any]
# The time in seconds since 1970, the mean, the minimum and the maximum.
Point = tuple[float, float, float, float]
# The time and the value.
Entry = tuple[float, float]


def coarse(monitoring: Monitoring) -> list[str]:
    """Return the metrics whose plots have buckets instead of samples."""
    return [metric for metric, plot in monitoring.plots.items() if plot.get("bucketSeconds")]


async def refine(bus: Bus, model: str, monitoring: Monitoring) -> None:
    """Replace the buckets of a day's plots by the newest hour's samples, or finer buckets.

    At most MAX_SAMPLES are read in all, in equal shares. The plot of a metric with more samples
    than its share keeps its buckets, as do those not read yet when the service is unavailable.
    """
    metrics = coarse(monitoring)
    since = datetime.now(UTC) - HOUR
    reads = asyncio.Semaphore(MAX_CONCURRENT_READS)

    async def replace(metric: str) -> None:
        async with reads:
            samples = await _read(bus, model, metric, since, MAX_SAMPLES // len(metrics))
        if samples:
            finer = await asyncio.to_thread(_reduced, samples)
            monitoring.plots[metric] = {**monitoring.plots[metric], **finer}

    try:
        async with asyncio.TaskGroup() as tasks:
            for metric in metrics:
                tasks.create_task(replace(metric))
    except* Unavailable:
        pass


async def _read(
    bus: Bus, model: str, metric: str, since: datetime, max_count: int
) -> list[Entry] | None:
    """Return a metric's samples since a time; None if there are more than `max_count`.

    Raises:
        Unavailable: the metrics service does not answer.
    """
    samples: list[Entry] = []
    cursor = None
    while len(samples) < max_count:
        limit = min(MAX_PAGE_SAMPLES, max_count - len(samples))
        request = SamplesRequest(
            model_id=model, metric=metric, from_=since, limit=limit, cursor=cursor
        )
        try:
            answer = await bus.pass_on(READ_SAMPLES, request)
        except Unavailable:
            raise
        except ServiceError:
            return None
        page, cursor = await asyncio.to_thread(_parsed, answer)
        samples += page
        if cursor is None:
            return samples
    return None


def _parsed(answer: bytes) -> tuple[list[Entry], str | None]:
    """Return the samples of a page and the cursor of the next."""
    # Validating ten thousand samples would take longer than reading them.
    page = orjson.loads(answer)
    samples = [
        (datetime.fromisoformat(sample["timestamp"]).timestamp(), sample["value"])
        for sample in page["samples"]
    ]
    return samples, page.get("next")


def _reduced(samples: list[Entry]) -> Plot:
    points: list[Point] = [(at, value, value, value) for at, value in samples]
    width = None
    for seconds in WIDTHS_S:
        if len(points) <= MAX_POINTS:
            break
        points, width = list(_buckets(samples, seconds)), seconds
    time, mean, minimum, maximum = (list(column) for column in zip(*points, strict=True))
    columns = {"time": time, "mean": mean, "minimum": minimum, "maximum": maximum}
    return {"columns": columns, "bucketSeconds": width}


def _buckets(samples: Sequence[Entry], seconds: int) -> Iterator[Point]:
    for number, group in groupby(samples, key=lambda sample: sample[0] // seconds):
        values = [value for _, value in group]
        yield number * seconds, sum(values) / len(values), min(values), max(values)


def charts(monitoring: Monitoring, window: str) -> list[dict[str, Any]]:
    """Return the plots as columns for the charts, with times in seconds since 1970."""
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
        scale = scale_of(metric)
        series = {
            "name": metric,
            **{
                name: [value * scale for value in columns[column][first:]]
                for name, column in (("value", "mean"), ("low", "minimum"), ("high", "maximum"))
            },
        }
        drawn.append(
            {
                "metric": metric,
                "title": _title(metric, plot["title"]),
                "unit": visible(plot["unit"] or ""),
                "time": True,
                "x": times[first:],
                "series": [series],
                "marks": [_mark(mark) for mark in plot["marks"]],
                "width": plot["bucketSeconds"],
                "caption": _caption(plot["bucketSeconds"], len(times) - first),
            }
        )
    return drawn


def scale_of(metric: str) -> int:
    """Return the factor from a recorded value to the one that pages show."""
    return INFERENCES if metric == "costs" or metric.startswith(COST) else 1


def _title(metric: str, title: str) -> str:
    if scale_of(metric) == 1:
        return title
    return title.replace("per inference", f"per {INFERENCES:,} inferences")


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
        return counted(count, "sample")
    size, unit = next((size, unit) for size, unit in UNITS if width % size == 0)
    number = width // size
    each = unit if number == 1 else f"{number} {unit}s"
    return f"mean, minimum and maximum of each {each}"


def titles(monitoring: Monitoring) -> dict[str, str]:
    """Return the titles of the metrics whose statistics are shown."""
    found = {metric: plot["title"] for metric, plot in monitoring.plots.items() if plot}
    found["costs"] = found.get(COST, "Cost per inference")
    return {metric: _title(metric, title) for metric, title in found.items()}


def rank(metric: str) -> tuple[int, str]:
    """Return a sort key: usual metrics first, throughput before latency; others by name."""
    usual = USUAL_METRICS.index(metric) if metric in USUAL_METRICS else len(USUAL_METRICS)
    return usual, metric
