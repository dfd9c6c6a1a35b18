"""Counts and durations of a process, as plain numbers that are rendered for Prometheus.

Counting costs the same whether or not the metrics are scraped: an addition, and
for a duration a search among a dozen bounds. `prometheus_client` is imported by the
process that serves `/metrics` alone. No label's value comes from a caller.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, cast

# Upper bounds of the buckets, in seconds: of answers, and of jobs.
ANSWER_BOUNDS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
JOB_BOUNDS_S = (1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1200.0, 1800.0, 3600.0)

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


class Histogram:
    """Durations in seconds, counted per bucket; the last bucket has no upper bound."""

    __slots__ = ("bounds", "counts", "total_s")

    def __init__(self, bounds: tuple[float, ...] = ANSWER_BOUNDS_S) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(self.bounds, seconds)] += 1
        self.total_s += seconds


def histograms(bounds: tuple[float, ...] = ANSWER_BOUNDS_S) -> defaultdict[Labels, Histogram]:
    """Return histograms by label values, each created when it is first observed."""
    return defaultdict(partial(Histogram, bounds))


@dataclass(frozen=True)
class MetricFamily:
    """The current state of a metric: its samples by the values of `labels`."""

    kind: Literal["counter", "gauge", "histogram"]
    name: str
    meaning: str
    labels: Labels
    # By `Labels`, declared as Any: a mapping's key type is invariant and would exclude tuples of a
    # fixed length.
    samples: Mapping[Any, float | Histogram]


Families = Callable[[], Iterable[MetricFamily]]


class Instruments:
    """Metrics of all parts of a process; each part adds a function that returns its own."""

    def __init__(self, *parts: Families) -> None:
        self.parts = list(parts)

    def add(self, *parts: Families) -> None:
        self.parts += parts

    def renderer(self) -> Callable[[], bytes]:
        """Return the function that renders everything in Prometheus's text format."""
        from prometheus_client import (  # noqa: PLC0415  (imported only to serve /metrics)
            CollectorRegistry,
            ProcessCollector,
            generate_latest,
        )

        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        registry.register(cast("Any", self))  # no `Collector`, which would have to be imported
        return partial(generate_latest, registry)

    def collect(self) -> Iterator[Any]:
        """Yield each metric once, as `prometheus_client` wants it."""
        from prometheus_client import core  # noqa: PLC0415  (as above)

        kinds = {
            "counter": core.CounterMetricFamily,
            "gauge": core.GaugeMetricFamily,
            "histogram": core.HistogramMetricFamily,
        }
        families: dict[str, Any] = {}
        for family in (family for part in self.parts for family in part()):
            metric = families.get(family.name)
            if metric is None:
                kind = kinds[family.kind]
                metric = families[family.name] = kind(
                    family.name, family.meaning, labels=family.labels
                )
            # A copy: observing may add samples, and in another thread.
            for labels, value in dict(family.samples).items():
                if isinstance(value, Histogram):
                    metric.add_metric(labels, list(_cumulative(value)), value.total_s)
                else:
                    metric.add_metric(labels, value)
        yield from families.values()


def _cumulative(histogram: Histogram) -> Iterator[tuple[str, int]]:
    total = 0
    for bound, count in zip((*histogram.bounds, float("inf")), histogram.counts, strict=True):
        total += count
        yield "+Inf" if bound == float("inf") else repr(bound), total
