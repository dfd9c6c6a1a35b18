"""Advice from a run's figures: a size for each purpose, its bottleneck, possible improvements."""

from collections.abc import Mapping, Sequence

from benchmarker import doubts
from benchmarker.memory import fit
from benchmarker.search import GOOD_SHARE
from common.contracts.benchmarking import MAX_BATCH_SIZE, BenchmarkRequest
from common.contracts.figures import Analysis, MemoryModel, Pick, Picks, Point, Regime, Results
from common.quantities import counted, percent
from models.sizes import HEADROOM

# A size at most this many times as large or as small is a neighbour; those beyond are not.
MAX_NEIGHBOUR_RATIO = 2
# Below this share of both ceilings, something other than the device delays a call.
MIN_BUSY_SHARE = 0.3


def analyse(
    results: Results,
    request: BenchmarkRequest,
    peaks: Mapping[int, float] | None = None,
    held: float | None = None,
) -> Analysis:
    """Recommend a size for each purpose, with the reasons and the bottleneck.

    Where the optimal size or the run is in doubt, remedies for the doubt replace the advice; other
    sizes in doubt are not recommended.

    Args:
        results: with at least one size that has figures.
        request: the caller's.
        peaks: peak memory in MiB by batch size, also of sizes that were not requested.
        held: most memory that the timed process held, in MiB.
    """
    points = sorted(results.points, key=lambda point: point.batch_size)
    allowed = [point for point in points if _allowed(point, request.latency_budget_ms)]
    picks = _picks(points, allowed, results, request.latency_budget_ms)
    optimal, constraint = _optimal(picks, request.latency_budget_ms)
    chosen = next((point for point in points if point.batch_size == optimal), None)
    in_doubt = [*chosen.suspect, *results.suspect] if chosen else []
    regime = "unknown" if in_doubt else _regime(chosen)
    memory = _memory(results, peaks, held)
    return Analysis(
        optimal_batch_size=optimal,
        constraint=constraint,
        verified=_verified(chosen, points, results, request.latency_budget_ms),
        resource_recommendations=[
            *(doubts.remedies(in_doubt, chosen) if chosen else ()),
            *_recommendations(chosen, regime, results, memory.kept or 0.0, in_doubt=bool(in_doubt)),
        ],
        picks=picks,
        regime=regime,
        would_change=_would_change(chosen, points, results, memory, in_doubt=bool(in_doubt)),
        memory=memory,
    )


def _allowed(point: Point, budget: float | None) -> bool:
    return budget is None or _latency(point) <= budget


def _latency(point: Point) -> float:
    assert point.latency.mean is not None
    return point.latency.mean


def _throughput(point: Point) -> float:
    assert point.throughput is not None
    return point.throughput


def _least_throughput(point: Point) -> float:
    """Return the lower bound of the throughput's interval, or its mean without an interval."""
    interval = point.latency.mean_interval
    return point.batch_size / interval.high * 1000 if interval else _throughput(point)


def _picks(
    points: Sequence[Point], allowed: Sequence[Point], results: Results, budget: float | None
) -> Picks:
    if not allowed:
        fastest = min(points, key=_latency)
        none = Pick(
            batch_size=None,
            why=f"no size stays within {budget:g} ms; {fastest.batch_size} comes closest with"
            f" {_latency(fastest):.4g} ms on average",
            bound_by="latency budget",
        )
        return Picks(latency=none, balanced=none, throughput=none, cost=none)
    best = max(allowed, key=_throughput)
    fastest = min(allowed, key=_latency)
    knee = next(p for p in allowed if _throughput(p) >= GOOD_SHARE * _throughput(best))
    bound = _bound(best, points, allowed, results)
    return Picks(
        latency=Pick(
            batch_size=fastest.batch_size,
            why=f"the shortest call: {_latency(fastest):.4g} ms on average{_doubt(fastest)}",
            bound_by="the work of a single call",
        ),
        balanced=Pick(
            batch_size=knee.batch_size,
            why=f"the smallest size with {percent(GOOD_SHARE)} of the best throughput"
            f"{_doubt(knee, best)}",
            bound_by="throughput of smaller sizes"
            if knee is not allowed[0]
            else "size 1"
            if knee.batch_size == 1
            else "the smallest size that was measured",
        ),
        throughput=Pick(
            batch_size=best.batch_size,
            why=f"the highest throughput: {_throughput(best):.4g} samples per second{_doubt(best)}",
            bound_by=bound,
        ),
        cost=Pick(
            batch_size=best.batch_size,
            why=f"the lowest cost: {best.cost_per_inference * 1000:.3g} USD per 1,000 inferences;"
            " the machine is paid by the hour, so the highest throughput costs least"
            f"{_doubt(best)}",
            bound_by=bound,
        )
        if best.cost_per_inference is not None
        else Pick(batch_size=None, why="the price of this machine is unknown", bound_by="price"),
    )


def _doubt(*compared: Point) -> str:
    """Return advice to measure again if any compared size is in doubt, otherwise ""."""
    doubtful = dict.fromkeys(f"{point.batch_size}" for point in compared if point.suspect)
    if not doubtful:
        return ""
    return f"; measure again first: the figures of {' and '.join(doubtful)} are in doubt"


def _bound(best: Point, points: Sequence[Point], allowed: Sequence[Point], results: Results) -> str:
    larger = [point for point in points if point.batch_size > best.batch_size]
    if any(point not in allowed for point in larger):
        return "latency budget"
    if larger:
        return "throughput falls at larger sizes"
    beyond = [error for error in results.errors if error.batch_size > best.batch_size]
    if beyond:
        nearest = min(beyond, key=lambda error: error.batch_size)
        return "memory" if nearest.reason != "not_measured" else "the model fails at larger sizes"
    return "the largest size that was measured"


def _optimal(picks: Picks, budget: float | None) -> tuple[int | None, str]:
    if budget is not None:
        return picks.throughput.batch_size, (
            f"the highest throughput with a mean latency of at most {budget:g} ms"
        )
    return picks.balanced.batch_size, (
        f"the smallest size with {percent(GOOD_SHARE)} of the best throughput;"
        " no latency budget was given"
    )


def _verified(
    chosen: Point | None, points: Sequence[Point], results: Results, budget: float | None
) -> bool:
    """Return whether the size and both neighbours are certain, and neither neighbour is better.

    A larger neighbour that does not fit, or fails, counts as certain. Size 1 has no smaller one.
    """
    if chosen is None:
        return False
    size = chosen.batch_size
    below = [p for p in points if size / MAX_NEIGHBOUR_RATIO <= p.batch_size < size]
    above = [p for p in points if size < p.batch_size <= size * MAX_NEIGHBOUR_RATIO]
    full = any(size < error.batch_size <= size * MAX_NEIGHBOUR_RATIO for error in results.errors)
    if not (below or size == 1) or not (above or full or size == MAX_BATCH_SIZE):
        return False
    beside = [*below[-1:], *above[:1]]
    sure = all(p.latency.mean_interval and not p.suspect for p in (chosen, *beside))
    return sure and not results.suspect and not _better(chosen, beside, points, budget)


def _better(
    chosen: Point, beside: Sequence[Point], points: Sequence[Point], budget: float | None
) -> bool:
    """Return whether a neighbour is better, or the chosen size may miss the required throughput."""
    if budget is not None:
        allowed = [p for p in beside if _latency(p) <= budget]
        return any(_throughput(p) > _throughput(chosen) for p in allowed)
    enough = GOOD_SHARE * max(_throughput(p) for p in points)
    smaller = [p for p in beside if p.batch_size < chosen.batch_size]
    return _least_throughput(chosen) < enough or any(_throughput(p) >= enough for p in smaller)


def _regime(point: Point | None) -> Regime:
    if point is None or point.bandwidth_share is None or point.compute_share is None:
        return "unknown"
    if max(point.bandwidth_share, point.compute_share) < MIN_BUSY_SHARE:
        return "overhead"
    return "compute" if point.compute_share >= point.bandwidth_share else "bandwidth"


def _recommendations(
    chosen: Point | None, regime: Regime, results: Results, retained: float, *, in_doubt: bool
) -> list[str]:
    if chosen is None:
        return ["Allow more latency, or use a faster device: no measured size meets the budget."]
    gpu = results.setup.machine.device == "cuda"
    lines = [] if in_doubt else [_advice(chosen, regime, results)]
    used = chosen.memory.used
    if used is not None:
        also = f", plus {retained:,.0f} MiB that its C library keeps for reuse" if retained else ""
        lines.append(
            f"Give it at least {(used + retained) * HEADROOM:,.0f} MiB of"
            f" {'GPU ' if gpu else ''}memory"
            f" for batch size {chosen.batch_size}: the peak was {used:,.0f} MiB{also},"
            " plus a fifth as headroom."
        )
    if regime != "unknown" and results.setup.dtype == "float32" and gpu:
        lines.append("Measure bfloat16 too: this device computes it several times as fast.")
    return lines


def _advice(chosen: Point, regime: Regime, results: Results) -> str:
    gpu = results.setup.machine.device == "cuda"
    shares = ""
    if chosen.compute_share is not None and chosen.bandwidth_share is not None:
        shares = (
            f" (it uses {percent(chosen.compute_share)} of the computing power and"
            f" {percent(chosen.bandwidth_share)} of the bandwidth measured on this device)"
        )
    advice = {
        "overhead": f"Neither arithmetic nor memory bandwidth limits it{shares}, but the time"
        " between operations and the data they pass to each other: try torch.compile"
        + (" with CUDA graphs" if gpu else "")
        + ", which shortens both, or larger batches.",
        "bandwidth": f"Memory bandwidth limits it{shares}: larger batches share each read of the"
        " weights, and a smaller dtype or quantised weights shorten it.",
        "compute": f"Arithmetic limits it{shares}: a larger batch gains little; use a smaller"
        " dtype, a faster device or more of them.",
        "unknown": "Its bottleneck is unknown: "
        + ("; ".join(results.setup.missing.values()) or "nothing was counted")
        + ".",
    }
    return advice[regime]


def _would_change(
    chosen: Point | None,
    points: Sequence[Point],
    results: Results,
    memory: MemoryModel,
    *,
    in_doubt: bool,
) -> list[str]:
    """Return the changes of budget, price or grid by which another size could be optimal."""
    if chosen is None:
        return [f"A latency budget of {_latency(min(points, key=_latency)):.4g} ms or more."]
    lines = []
    if not in_doubt:
        lines += _other_sizes(chosen, points, results)
    if memory.largest_batch is not None and memory.largest_batch > points[-1].batch_size:
        lines.append(f"Memory would hold up to about {counted(memory.largest_batch, 'sample')}.")
    return lines


def _other_sizes(chosen: Point, points: Sequence[Point], results: Results) -> list[str]:
    lines = []
    sure = [point for point in points if not point.suspect]
    faster = [p for p in sure if _latency(p) < _latency(chosen)]
    if faster:
        next_one = max(faster, key=_throughput)
        lines.append(
            f"A latency budget below {_latency(chosen):.4g} ms makes it {next_one.batch_size}."
        )
    better = [p for p in sure if _throughput(p) > _throughput(chosen)]
    if better:
        top = max(better, key=_throughput)
        gain = _throughput(top) / _throughput(chosen) - 1
        lines.append(
            f"{top.batch_size} gives {percent(gain, 1)} more throughput, at"
            f" {_latency(top):.4g} ms a call."
        )
        if results.price:
            lines.append(
                f"A machine with the same figures at {1 + gain:.3f} times the price costs at"
                f" {top.batch_size} what this one costs at {chosen.batch_size}."
            )
    elif chosen is points[-1] and not results.errors:
        lines.append(
            f"{chosen.batch_size} is the largest size that was measured; a larger one may be"
            " better."
        )
    return lines


def _memory(results: Results, peaks: Mapping[int, float] | None, held: float | None) -> MemoryModel:
    measured = {p.batch_size: p.memory.used for p in results.points if p.memory.used is not None}
    fitted = fit({**measured, **(peaks or {})})
    setup = results.setup
    largest = None
    if fitted and fitted[1] > 0 and setup.available:
        largest = max(int((setup.available - fitted[0]) / fitted[1]), 0)
    retained = None
    if setup.machine.device == "cpu" and held is not None and measured:
        retained = max(held - max(measured.values()), 0.0)
    return MemoryModel(
        estimate=setup.estimate,
        weights=setup.weights,
        base=fitted and fitted[0],
        per_sample=fitted and fitted[1],
        kept=retained,
        available=setup.available,
        largest_batch=largest,
    )
