"""A run's results as tables, charts, files and a badge."""

import csv
import io
import math
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import pairwise
from typing import Any

from common.contracts.benchmarking import OVER, Run
from common.contracts.figures import Point
from gateway.pages.figures import number, usd, visible

CSV_COLUMNS = (
    "batch_size",
    "throughput_per_s",
    "latency_mean_ms",
    "latency_low_ms",
    "latency_high_ms",
    "latency_p95_ms",
    "peak_memory_mib",
    "cost_per_inference_usd",
    "energy_per_inference_j",
    "missing",
)
STAGES = ("waiting", "fetching", "loading", "warming", "measuring")
# Badge layout: pixels per character of 11 px DejaVu Sans, and around the text.
CHARACTER_PX, MARGIN_PX = 6.6, 10
MAX_NAME, MAX_MACHINE = 32, 24
# Compared runs: their letters, the number of facts of a setup, and characters of an id.
LETTERS = "ABCD"
SETUP_FACTS = 4
MAX_ID = 6


@dataclass(frozen=True)
class Row:
    """One batch size; `picks` names the advice that chose it, `error` why it has no figures."""

    size: int
    point: Point | None
    picks: tuple[str, ...]
    error: str


def rows(run: Run) -> list[Row]:
    if run.results is None:
        return []
    points = {point.batch_size: point for point in run.results.points}
    errors = {shortage.batch_size: shortage.message for shortage in run.results.errors}
    picks = _picks(run)
    return [
        Row(size, points.get(size), tuple(picks.get(size, ())), errors.get(size, ""))
        for size in sorted(run.results.batch_sizes)
    ]


def _picks(run: Run) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    if run.analysis is not None:
        for name in ("latency", "balanced", "throughput", "cost"):
            size = getattr(run.analysis.picks, name).batch_size
            if size is not None:
                names.setdefault(size, []).append(name)
    return names


@dataclass(frozen=True)
class Stage:
    """A stage of a run: `state` is `now`, `done` or empty; `begin` is None before it."""

    name: str
    state: str
    begin: datetime | None
    end: datetime | None


def stages(run: Run) -> list[Stage]:
    begins = {"waiting": run.created_at, **run.stages}
    begun = [name for name in STAGES if name in begins]
    ends: dict[str, datetime | None] = {
        name: begins[following] for name, following in pairwise(begun)
    }
    ends.setdefault("waiting", run.started_at or run.finished_at)
    now = begun[-1] if run.state not in OVER else ""
    return [
        Stage(
            name,
            "now" if name == now else "done" if ends.get(name) or run.state == "succeeded" else "",
            begins.get(name),
            ends.get(name) or run.finished_at,
        )
        for name in STAGES
    ]


def best(run: Run) -> Point | None:
    """Return the figures of the run's best batch size."""
    size = run.analysis.optimal_batch_size if run.analysis else None
    return next((row.point for row in rows(run) if row.size == size), None)


def figures(run: Run) -> str:
    """Write a run's summary in one line, for lists; "" without one."""
    if (found := run.summary) is None:
        return ""
    parts = [
        f"{number(found.throughput)}/s at batch size {found.batch_size}",
        f"{number(found.latency)} ms",
    ]
    if found.cost_per_inference is not None:
        parts.append(f"{usd(found.cost_per_inference * 1000)} per 1,000 inferences")
    return f"{', '.join(parts)} ({found.dtype}, {found.machine})"


def price(run: Run | None) -> float | None:
    """Return the cost of an inference at the run's best batch size, where it is known [USD]."""
    point = best(run) if run else None
    return point.cost_per_inference if point else None


def charts(runs: list[tuple[str, Run]]) -> list[dict[str, Any]]:
    """Return charts of throughput, latency, memory and cost against batch size, for each run."""
    sizes = sorted({row.size for _, run in runs for row in rows(run)})
    drawn: list[dict[str, Any]] = []
    if not sizes:
        return drawn
    for title, unit, figure in (
        ("Throughput", "samples/s", _throughput),
        ("Latency of a batch", "ms", _latency),
        ("Peak memory", "MiB", lambda point: (point.memory.used, None, None)),
        ("Cost per 1,000 inferences", "USD", _cost),
    ):
        series = []
        for name, run in runs:
            points = {row.size: row.point for row in rows(run)}
            values = [figure(p) if (p := points.get(size)) else (None,) * 3 for size in sizes]
            value, low, high = (list(column) for column in zip(*values, strict=True))
            series.append({"name": name, "value": value, "low": low, "high": high})
        if any(value is not None for line in series for value in line["value"]):
            drawn.append({"title": title, "unit": unit, "x": sizes, "series": series})
    return drawn


Figure = tuple[float | None, float | None, float | None]


def _throughput(point: Point) -> Figure:
    """Return a throughput and both ends of its interval; an upper end without bound is None."""
    low, high = _throughput_interval(point) or (None, None)
    return point.throughput, low, None if high == math.inf else high


def _throughput_interval(point: Point) -> tuple[float, float] | None:
    interval = point.latency.mean_interval
    if interval is None:
        return None
    # Batch size over latency: the shorter end of one is the longer of the other. A latency whose
    # interval reaches zero says nothing of how high the throughput may be.
    milliseconds = point.batch_size * 1000
    return (
        milliseconds / interval.high,
        milliseconds / interval.low if interval.low > 0 else math.inf,
    )


def _latency(point: Point) -> Figure:
    interval = point.latency.mean_interval
    ends = (interval.low, interval.high) if interval else (None, None)
    return point.latency.mean, *ends


def _cost(point: Point) -> Figure:
    cost = point.cost_per_inference
    return None if cost is None else cost * 1000, None, None


@dataclass(frozen=True)
class Comparison:
    """Throughput of runs at one batch size; a verdict for the first against each other run.

    A verdict says a tie where the intervals overlap.
    """

    size: int
    points: list[Point | None]
    verdicts: list[str]


def compare(names: list[str], runs: list[Run]) -> list[Comparison]:
    """Compare the runs at every batch size that any of them has."""
    tables = [{row.size: row.point for row in rows(run)} for run in runs]
    sizes = sorted({size for table in tables for size in table})
    return [
        Comparison(size, points := [table.get(size) for table in tables], _verdicts(names, points))
        for size in sizes
    ]


def names(runs: list[Run]) -> list[str]:
    """Name each run by its letter and model; add what differs if several have the same model."""
    named = []
    for letter, run in zip(LETTERS, runs, strict=False):
        others = [_facts(other) for other in runs if other.model_id == run.model_id]
        facts, shown = _facts(run), []
        for place, fact in enumerate(facts):
            # The time and the id only where no fact of the setup tells the runs apart.
            if place >= SETUP_FACTS and sum(_agree(facts, other, place) for other in others) == 1:
                break
            if fact and any(other[place] != fact for other in others):
                shown.append(fact)
        name = f"{letter}: {visible(run.model_id)}"
        named.append(f"{name} ({', '.join(shown)})" if shown else name)
    return named


def _facts(run: Run) -> list[str]:
    """Return the facts that distinguish runs of one model: setup, time and id."""
    facts = [""] * SETUP_FACTS
    if run.results:
        setup = run.results.setup
        attention = f"attention {setup.attention}"
        compiled = "compiled" if setup.compiled else "not compiled"
        facts = [setup.machine.name, setup.dtype, attention, compiled]
    return [*facts, f"{run.created_at:%Y-%m-%d %H:%M} UTC", f"run {run.id[-MAX_ID:]}"]


def _agree(facts: list[str], others: list[str], count: int) -> bool:
    return facts[:count] == others[:count]


def differences(runs: list[Run]) -> list[str]:
    """Name the differences, other than the model, between runs that have results."""
    setups = [run.results.setup for run in runs if run.results]
    facts = {
        "machine": {setup.machine.name for setup in setups},
        "dtype": {setup.dtype for setup in setups},
        "attention": {setup.attention for setup in setups},
    }
    return [name for name, values in facts.items() if len(values) > 1]


def _verdicts(names: list[str], points: list[Point | None]) -> list[str]:
    others = range(1, len(points))
    verdicts = [_verdict((names[0], names[n]), (points[0], points[n])) for n in others]
    if len(verdicts) == 1:
        return verdicts
    return [
        f"{names[0]}, {names[n]}: {verdict}" for n, verdict in zip(others, verdicts, strict=True)
    ]


def _verdict(names: tuple[str, str], points: tuple[Point | None, Point | None]) -> str:
    first, second = points
    if first is None or second is None or not first.throughput or not second.throughput:
        return "not measured in both"
    a, b = _throughput_interval(first), _throughput_interval(second)
    if a is None or b is None:
        return "no interval: too few calls"
    if a[0] <= b[1] and b[0] <= a[1]:
        return "a tie: the intervals overlap"
    ratio = second.throughput / first.throughput
    better, ratio = (names[1], ratio) if ratio > 1 else (names[0], 1 / ratio)
    return f"{better} is {number((ratio - 1) * 100, 2)} % faster"


def to_csv(run: Run) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(CSV_COLUMNS)
    for row in rows(run):
        figures: list[Any] = [None] * (len(CSV_COLUMNS) - 2)
        if (point := row.point) is not None:
            mean, low, high = _latency(point)
            figures = [
                point.throughput,
                mean,
                low,
                high,
                point.latency.p95,
                point.memory.used,
                point.cost_per_inference,
                point.energy.per_inference,
            ]
        writer.writerow([row.size, *figures, row.error])
    return text.getvalue()


def badge(run: Run) -> str:
    """Draw an SVG of less than 2 KB: the result, the machine and the date."""
    left = _shortened(visible(run.model_id.rpartition("/")[2]), MAX_NAME)
    right = _measured(run)
    widths = [round(len(text) * CHARACTER_PX) + 2 * MARGIN_PX for text in (left, right)]
    badge_width = sum(widths)
    centers = (widths[0] / 2, widths[0] + widths[1] / 2)
    label = escape(f"{left}: {right}")
    texts = "".join(
        f'<text x="{center:g}" y="14" textLength="{width - 2 * MARGIN_PX}">{escape(text)}</text>'
        for center, width, text in zip(centers, widths, (left, right), strict=True)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{badge_width}" height="20" role="img"'
        f' aria-label="{label}"><title>{label}</title>'
        f'<clipPath id="r"><rect width="{badge_width}" height="20" rx="4"/></clipPath>'
        f'<g clip-path="url(#r)"><rect width="{widths[0]}" height="20" fill="#37474f"/>'
        f'<rect x="{widths[0]}" width="{widths[1]}" height="20" fill="#17704b"/></g>'
        '<g fill="#fff" text-anchor="middle" font-family="DejaVu Sans,Verdana,sans-serif"'
        f' font-size="11">{texts}</g></svg>'
    )


def _measured(run: Run) -> str:
    point = best(run)
    if run.results is None or point is None or point.throughput is None:
        return run.state
    machine = _shortened(run.results.setup.machine.name, MAX_MACHINE)
    at: datetime = run.finished_at or run.created_at
    speed = f"{number(point.throughput)}/s at batch {point.batch_size}"
    return f"{speed}, {run.results.setup.dtype}, {machine}, {at:%Y-%m-%d}"


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
