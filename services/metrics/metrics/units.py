"""What is known of a metric by its name: its unit, its title, which way is better."""

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
# A part of a name, and the unit that such a metric is in.
ENDINGS = {"_ms": "ms", "_seconds": "s", "_mib": "MiB", "_bytes": "bytes", "_percent": "%",
           "_usd": "USD", "_per_second": "1/s"}  # fmt: skip
LOWER = ("latency", "memory", "cost", "time", "duration", "error", "loss", "failure", "wait",
         "queue", "_ms", "_seconds", "energy", "power", "temperature")  # fmt: skip
HIGHER = ("throughput", "per_second", "accuracy", "score", "hit_rate", "success", "limit")
# Whole words, which stand in a name with one of the others: `free_memory`.
MORE = {"uptime", "lifetime", "free", "available", "headroom", "remaining", "saved", "savings",
        "efficiency"}  # fmt: skip


def unit(metric: str) -> str | None:
    """Also of a metric measured at a batch size: `latency_batch_8` is a latency."""
    name = metric.partition("_batch_")[0]
    if name in USUAL:
        return USUAL[name][0]
    return next((unit for ending, unit in ENDINGS.items() if name.endswith(ending)), None)


def title(metric: str) -> str:
    name, _, size = metric.partition("_batch_")
    words = USUAL[name][1] if name in USUAL else name.replace("_", " ").capitalize()
    return f"{words} at batch size {size}" if size else words


def lower_is_better(metric: str) -> bool:
    """Of a name that says nothing, more is taken to be better."""
    if any(word in metric for word in HIGHER) or not MORE.isdisjoint(metric.split("_")):
        return False
    return any(word in metric for word in LOWER)
