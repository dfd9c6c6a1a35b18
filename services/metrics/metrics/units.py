"""Units, titles and better directions of metrics, by their descriptions or names."""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar

from psycopg.rows import TupleRow

from common.contracts.recording import MetricDescription

# The descriptions of the account whose metrics are read or evaluated.
DESCRIBED: ContextVar[Mapping[str, MetricDescription]] = ContextVar("described", default={})  # noqa: B039


def parse_descriptions(rows: Iterable[TupleRow]) -> dict[str, MetricDescription]:
    """Parse descriptions from rows of metric, kind, unit and direction."""
    return {
        metric: MetricDescription.model_construct(kind=kind, unit=unit, more_is_better=better)
        for metric, kind, unit, better in rows
        if kind is not None
    }


USUAL = {
    "throughput": ("samples/s", "Throughput"),
    "latency": ("ms", "Latency"),
    "memory_usage": ("MiB", "Memory"),
    "gpu_memory_usage": ("MiB", "GPU memory"),
    "memory_limit": ("MiB", "Memory limit"),
    "gpu_memory_limit": ("MiB", "GPU memory limit"),
    "cost_per_inference": ("USD", "Cost per inference"),
    "batch_size": ("samples", "Batch size"),
}
# Units by the ending of a name.
ENDINGS = {"_ms": "ms", "_seconds": "s", "_mib": "MiB", "_bytes": "bytes", "_percent": "%",
           "_usd": "USD", "_per_second": "1/s"}  # fmt: skip
LOWER = ("latency", "memory", "cost", "time", "duration", "error", "loss", "failure", "wait",
         "queue", "_ms", "_seconds", "energy", "power", "temperature")  # fmt: skip
HIGHER = ("throughput", "per_second", "accuracy", "score", "hit_rate", "success", "limit")
# Words of a name that override the others, as in `free_memory`.
MORE = {"uptime", "lifetime", "free", "available", "headroom", "remaining", "saved", "savings",
        "efficiency"}  # fmt: skip


def unit(metric: str) -> str | None:
    """Return a metric's unit, also for a batch size (`latency_batch_8`); None if unknown."""
    described = DESCRIBED.get().get(metric)
    if described is not None and described.unit is not None:
        return described.unit
    name = metric.partition("_batch_")[0]
    if name in USUAL:
        return USUAL[name][0]
    return next((unit for ending, unit in ENDINGS.items() if name.endswith(ending)), None)


def title(metric: str) -> str:
    name, _, size = metric.partition("_batch_")
    words = USUAL[name][1] if name in USUAL else name.replace("_", " ").capitalize()
    return f"{words} at batch size {size}" if size else words


def lower_is_better(metric: str) -> bool:
    """Return whether lower values are better."""
    described = DESCRIBED.get().get(metric)
    if described is not None and described.more_is_better is not None:
        return not described.more_is_better
    if any(word in metric for word in HIGHER) or not MORE.isdisjoint(metric.split("_")):
        return False
    return any(word in metric for word in LOWER)
