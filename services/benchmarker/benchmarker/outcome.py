"""Results of a run, from the reports of its workers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarker import analysis, cost, doubts
from benchmarker.generation import describe_generation
from benchmarker.runs import Findings, measurement_of, setup_of
from benchmarker.statistics import NANOSECONDS_PER_MS, describe
from common.contracts.benchmarking import Failure
from common.contracts.figures import (
    Analysis,
    EnergyUse,
    MemoryUse,
    Point,
    Price,
    Results,
    Setup,
    Shortage,
)
from common.contracts.measuring import Samples, SizeFacts

NOT_REPORTED = EnergyUse(missing="not measured")


class Outcome(NamedTuple):
    results: Results
    analysis: Analysis


def conclude(findings: Findings, prices: cost.Prices) -> Outcome | Failure:
    """Return a run's results and analysis, or a failure if no size was timed.

    Args:
        findings: the run's row, its blocks in the order of their rounds, its sizes.
        prices: of machines, for requests that name none.
    """
    row, blocks, facts = findings
    request = measurement_of(row).request
    setup = setup_of(row)
    sizes = request.batch_sizes or row["chosen"]
    by_size = {fact.batch_size: fact for fact in facts}
    errors = {
        size: shortage
        for size in sizes
        if size in by_size and (shortage := by_size[size].shortage) is not None
    }
    timed: dict[int, list[Samples]] = defaultdict(list)
    for block in blocks:
        if block.batch_size in sizes and block.batch_size not in errors:
            timed[block.batch_size].append(block)
    if setup is None or not timed:
        return _nothing_measured(list(errors.values()))
    price = prices.price(setup.machine, request)
    points = {
        size: describe_size(size, timed[size], by_size[size], setup, price)
        for size in sizes
        if size in timed
    }
    results = assemble(sizes, points, list(errors.values()), setup, price)
    results = results.model_copy(update={"suspect": doubts.of_run(blocks, results)})
    peaks = {f.batch_size: f.memory.used for f in facts if f.memory and f.memory.used is not None}
    held = max((block.peak_rss for block in blocks if block.peak_rss is not None), default=None)
    return Outcome(results, analysis.analyse(results, request, peaks, held))


def conclude_canceled(findings: Findings, prices: cost.Prices) -> Outcome | None:
    """Return the results of a canceled run; None if no size was timed.

    A size that was not timed is listed among the errors.
    """
    row, blocks, facts = findings
    timed = {block.batch_size for block in blocks}
    known = {fact.batch_size for fact in facts if fact.shortage}
    untimed = [
        SizeFacts(
            batch_size=size,
            shortage=Shortage(
                batch_size=size,
                reason="not_measured",
                message=f"batch size {size} was not measured: the run was canceled before",
            ),
        )
        for size in measurement_of(row).request.batch_sizes or row["chosen"]
        if size not in timed | known
    ]
    measured = [fact for fact in facts if fact.batch_size in timed | known]
    concluded = conclude((row, blocks, [*measured, *untimed]), prices)
    return concluded if isinstance(concluded, Outcome) else None


def _nothing_measured(errors: Sequence[Shortage]) -> Failure:
    named = "; ".join(shortage.message for shortage in errors)
    failed = any(shortage.reason == "not_measured" for shortage in errors)
    return Failure(
        code=1004,
        status=422,
        message=f"no batch size could be measured: {named or 'nothing was reported'}",
        reason="model" if failed else "out_of_memory" if named else "nothing_measured",
    )


def describe_size(
    size: int, blocks: Sequence[Samples], facts: SizeFacts, setup: Setup, price: Price | None
) -> Point:
    wall = np.concatenate([block.wall for block in blocks]) / NANOSECONDS_PER_MS
    latency = describe(wall)
    mean = float(wall.mean())
    throughput = size / mean * 1000
    by_device = None
    if all(block.device for block in blocks):
        by_device = describe(
            np.concatenate([block.device or [] for block in blocks]) / NANOSECONDS_PER_MS
        )
    generation = None
    if setup.new_tokens:
        generation = describe_generation(
            [time for block in blocks for time in block.wall],
            [steps for block in blocks for steps in block.steps or []],
            size,
            setup.tokens,
        )
    cost_each = cost.per_inference(price, throughput) if price else None
    counted = setup.new_tokens or setup.tokens
    per_second = 1000 / mean
    ceilings = setup.ceilings
    read = None
    if setup.bytes_per_call is not None and setup.bytes_per_sample is not None:
        read = setup.bytes_per_call + setup.bytes_per_sample * size
    bandwidth_share = compute_share = None
    if read and ceilings.bandwidth:
        bandwidth_share = read * per_second / ceilings.bandwidth / 1e9
    if setup.operations and ceilings.compute:
        compute_share = setup.operations * size * per_second / ceilings.compute / 1e9
    return Point(
        batch_size=size,
        throughput=throughput,
        latency=latency,
        device_latency=by_device,
        memory=facts.memory or MemoryUse(),
        generation=generation,
        energy=facts.energy or NOT_REPORTED,
        cost_per_inference=cost_each,
        cost_per_million_tokens=cost_each / counted * 1e6 if cost_each and counted else None,
        bandwidth_share=bandwidth_share,
        compute_share=compute_share,
        suspect=[
            *doubts.of_size(wall, latency, by_device, blocks),
            *doubts.of_shares(bandwidth_share, compute_share),
        ],
    )


def assemble(
    sizes: Sequence[int],
    points: Mapping[int, Point],
    errors: Sequence[Shortage],
    setup: Setup,
    price: Price | None,
) -> Results:
    """Assemble the results, with arrays in the order of the requested sizes."""
    aligned = [points.get(size) for size in sizes]
    return Results(
        batch_sizes=list(sizes),
        throughput=[point and point.throughput for point in aligned],
        latency=[point and point.latency.mean for point in aligned],
        memory_usage=[point and point.memory.used for point in aligned],
        cost_per_inference=[point and point.cost_per_inference for point in aligned],
        errors=list(errors),
        points=list(points.values()),
        setup=setup,
        price=price,
        suspect=[],
    )


def records(results: Results, concluded: Analysis) -> list[dict[str, Any]]:
    """Return the metrics to record: those of the optimal size, none if no size is optimal."""
    point = next((p for p in results.points if p.batch_size == concluded.optimal_batch_size), None)
    if point is None:
        return []
    memory = "memory_usage" if results.setup.machine.device == "cpu" else "gpu_memory_usage"
    metrics = {
        "throughput": point.throughput,
        "latency": point.latency.mean,
        memory: point.memory.used,
        "cost_per_inference": point.cost_per_inference,
    }
    return [{name: value for name, value in metrics.items() if value is not None}]
