"""From what a worker brought in to what the caller reads."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from benchmarker import analysis, cost
from benchmarker.generation import describe_generation
from benchmarker.runs import measurement_of, setup_of
from benchmarker.statistics import NANOSECONDS, describe, drift
from common.contracts.benchmarking import Failure
from common.contracts.figures import (
    Analysis,
    Distribution,
    EnergyUse,
    MemoryUse,
    Point,
    Price,
    Results,
    Setup,
    Shortage,
)
from common.contracts.measuring import Samples, SizeFacts

# From here on a figure is called suspect:
# a latency that changes by this share from the first to the last call,
DRIFT = 0.05
# two clocks that disagree by this share,
CLOCKS = 0.02
# an interval of the mean that is so wide, as a share of it, to either side,
WIDE = 0.10
# so many cores that others kept busy,
NEIGHBOURS = 0.2
# a share of what the device can do that is beyond all of it.
BEYOND = 1.1

NOT_REPORTED = EnergyUse(missing="not measured")


class Outcome(NamedTuple):
    results: Results
    analysis: Analysis


def conclude(
    brought: tuple[dict[str, Any], list[Samples], list[SizeFacts]], prices: cost.Prices
) -> Outcome | Failure:
    """All figures of a run; a failure if no size has any.

    Args:
        brought: the run's row, its blocks in the order of their rounds, its sizes.
        prices: of machines, where the request names none.
    """
    row, blocks, facts = brought
    request = measurement_of(row).request
    setup = setup_of(row)
    sizes = request.batch_sizes or row["chosen"]
    by_size = {fact.batch_size: fact for fact in facts}
    shortages = [by_size[size].shortage for size in sizes if size in by_size]
    if setup is None or not blocks:
        named = "; ".join(shortage.message for shortage in shortages if shortage)
        failed = any(shortage and shortage.reason == "not_measured" for shortage in shortages)
        return Failure(
            code=1004,
            status=422,
            message=f"no batch size could be measured: {named or 'nothing was reported'}",
            reason="model" if failed else "out_of_memory" if named else "nothing_measured",
        )
    price = prices.price(setup.machine, request)
    timed: dict[int, list[Samples]] = defaultdict(list)
    for block in blocks:
        timed[block.batch_size].append(block)
    errors = {size: by_size[size].shortage for size in sizes if size in by_size}
    points = {
        size: describe_size(size, timed[size], by_size[size], setup, price)
        for size in sizes
        if size in timed and not errors.get(size)
    }
    results = assemble(sizes, points, [s for s in errors.values() if s], setup, price)
    results = results.model_copy(update={"suspect": _doubts(blocks, results)})
    peaks = {f.batch_size: f.memory.used for f in facts if f.memory and f.memory.used is not None}
    held = max((block.peak_rss for block in blocks if block.peak_rss is not None), default=None)
    return Outcome(results, analysis.analyse(results, request, peaks, held))


def describe_size(
    size: int, blocks: Sequence[Samples], facts: SizeFacts, setup: Setup, price: Price | None
) -> Point:
    wall = np.concatenate([block.wall for block in blocks]) / NANOSECONDS
    latency = describe(wall)
    mean = float(wall.mean())
    throughput = size / mean * 1000
    by_device = None
    if all(block.device for block in blocks):
        by_device = describe(np.concatenate([block.device or [] for block in blocks]) / NANOSECONDS)
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
            *_doubts_of_size(wall, latency, by_device, blocks),
            *_doubts_of_shares(bandwidth_share, compute_share),
        ],
    )


def assemble(
    sizes: Sequence[int],
    points: Mapping[int, Point],
    errors: Sequence[Shortage],
    setup: Setup,
    price: Price | None,
) -> Results:
    """The arrays aligned with the sizes as they were asked for."""
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
    """What the metrics service is told: the figures at the best size, not a mixture of sizes."""
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


def _doubts_of_size(
    wall: "np.typing.NDArray[np.float64]",
    latency: Distribution,
    by_device: Distribution | None,
    blocks: Sequence[Samples],
) -> list[str]:
    doubts = []
    change, real = drift(wall)
    if real and abs(change) > DRIFT:
        doubts.append(f"drift: latency changed by {change:+.0%} from the first to the last call")
    interval = latency.mean_interval
    if interval and latency.mean:
        half = (interval.high - interval.low) / 2 / latency.mean
        if half > WIDE:
            doubts.append(
                f"noise: the mean is known to within {half:.0%} only; take more iterations"
            )
    if by_device and by_device.median and latency.median:
        apart = latency.median / by_device.median - 1
        if abs(apart) > CLOCKS:
            doubts.append(
                f"clocks: the wall clock says {apart:+.1%} of the device's; the host is in the way"
            )
    if any(block.steady is False for block in blocks):
        doubts.append("warm-up: calls had not become steady when the timing began")
    if any(block.compiled is False for block in blocks):
        doubts.append("compile: torch.compile was asked for, and the model ran as it is written")
    throttled = {reason for block in blocks for reason in block.throttled}
    if "quota" in throttled:
        doubts.append("throttled: the worker's container had used up its share of the processor")
    if lowered := sorted(throttled - {"quota"}):
        doubts.append(f"throttled: the clocks were lowered ({', '.join(lowered)})")
    return doubts


def _doubts_of_shares(bandwidth: float | None, compute: float | None) -> list[str]:
    doubts = []
    if compute is not None and compute > BEYOND:
        doubts.append(
            f"ceilings: it computes at {compute:.0%} of the matrix product that was measured to be"
            " the most, which was held up then"
        )
    if bandwidth is not None and bandwidth > BEYOND:
        doubts.append(
            f"ceilings: it reads at {bandwidth:.0%} of what copying reached: its weights stay in"
            " the caches, or copying was held up then"
        )
    return doubts


def _doubts(blocks: Sequence[Samples], results: Results) -> list[str]:
    doubts = []
    cores = [block.neighbours for block in blocks if block.neighbours is not None]
    if cores and max(cores) > NEIGHBOURS:
        doubts.append(
            f"neighbours: others kept {max(cores):.1f} cores busy on a machine of"
            f" {results.setup.machine.cores}"
        )
    sharing = max((block.sharing or 0 for block in blocks), default=0)
    if sharing:
        doubts.append(f"neighbours: {sharing} other processes had the GPU meanwhile")
    return doubts
