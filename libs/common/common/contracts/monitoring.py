"""Metrics of a model: recorded, summarised, watched."""

import re
from array import array
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, PlainValidator, StringConstraints

from common.contracts import Event, Input, Message, Rpc

MOST_RECORDS = 10_000
# What fits one message on the bus: 10,000 records of the five usual metrics.
MOST_SAMPLES = 50_000
MOST_METRICS = 64

# Units: samples/s, ms, MiB, MiB, USD.
USUAL_METRICS = (
    "throughput",
    "latency",
    "memory_usage",
    "gpu_memory_usage",
    "cost_per_inference",
)

# PostgreSQL's: microseconds are counted from here, on the bus as in the database.
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)

_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_time(text: str) -> datetime:
    """RFC 3339 into UTC, to the microsecond; raises ValueError with a sentence."""
    if not _RFC3339.fullmatch(text):
        raise ValueError("write a time as RFC 3339 does: 2026-01-31T12:00:00Z")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("there is no such time") from None


def _sensible_time(value: Any) -> datetime:
    if isinstance(value, str) and len(value) <= 64:
        time = parse_time(value)
    elif isinstance(value, datetime) and value.tzinfo:
        time = value.astimezone(UTC)
    else:
        raise ValueError("write a time as RFC 3339 does: 2026-01-31T12:00:00Z")
    if time < EPOCH:
        raise ValueError("a time before the year 2000 is a mistake")
    if time > datetime.now(UTC) + timedelta(days=1):
        raise ValueError("a time more than a day ahead is a mistake")
    return time


ModelId = Annotated[
    str,
    StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$"),
    Field(description="Any name; usually the model's id on the Hub.", examples=["openai/gpt2"]),
]
MetricName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
# Beyond anything that is measured, and far enough below the largest float for
# the squares and sums of all that a database holds.
Value = Annotated[float, Field(ge=-1e100, le=1e100)]
Timestamp = Annotated[
    datetime,
    PlainValidator(_sensible_time, json_schema_input_type=str),
    Field(json_schema_extra={"format": "date-time"}),
]


class Record(Input):
    """Measurements of one moment. The same (model, time, metric) again counts once."""

    model_id: ModelId
    timestamp: Timestamp | None = Field(None, description="RFC 3339; now when left out.")
    metrics: Annotated[dict[MetricName, Value], Field(min_length=1, max_length=MOST_METRICS)] = (
        Field(
            description="throughput in samples/s, latency in ms, memory_usage and "
            "gpu_memory_usage in MiB, cost_per_inference in USD, and any others.",
            examples=[{"throughput": 120.5, "latency": 8.3}],
        )
    )


class Records(Input):
    """All of them are stored, or none."""

    # The first record that is wrong is told, not ten thousand.
    records: Annotated[list[Record], Field(min_length=1, max_length=MOST_RECORDS), FailFast()]


class Samples(Message):
    """Records as columns, which is an eighth of their size and needs no parsing.

    Little-endian arrays: for each record the model (uint16, an index into
    `models`), the time (int64, microseconds since 2000; 0: now, and -1 the
    very moment in which 2000 began, which clocks that were reset tell) and how many
    metrics it has (uint16); for each of those, one after the other, the
    metric (uint16, an index into `metrics`) and the value (float64).
    """

    models: list[str]
    metrics: list[str]
    model: bytes
    at: bytes
    size: bytes
    metric: bytes
    value: bytes

    @classmethod
    def from_records(cls, records: Iterable[Record]) -> "Samples":
        models: dict[str, int] = {}
        metrics: dict[str, int] = {}
        model, size, metric = array("H"), array("H"), array("H")
        at, value = array("q"), array("d")
        for record in records:
            model.append(models.setdefault(record.model_id, len(models)))
            time = record.timestamp
            at.append(0 if time is None else (time - EPOCH) // MICROSECOND or -1)
            size.append(len(record.metrics))
            value.extend(record.metrics.values())
            try:
                metric.extend([metrics[name] for name in record.metrics])
            except KeyError:
                metric.extend([metrics.setdefault(n, len(metrics)) for n in record.metrics])
        return cls.model_construct(
            models=list(models),
            metrics=list(metrics),
            model=model.tobytes(),
            at=at.tobytes(),
            size=size.tobytes(),
            metric=metric.tobytes(),
            value=value.tobytes(),
        )


class Recorded(Message):
    """Committed, and visible to whoever asks next."""

    status: Literal["success"] = "success"


PlotFormat = Literal["plotly", "vega-lite", "series"]
DRAWN: PlotFormat = Field(
    "plotly", description="A figure of Plotly, a specification of Vega-Lite, or plain columns."
)


class MonitorRequest(Input):
    model_id: ModelId
    days: Annotated[int, Field(ge=1, le=365)] = 30
    metrics: Annotated[list[MetricName], Field(min_length=1, max_length=16)] | None = Field(
        None, description="Which to plot; those of the usual five that were recorded, if left out."
    )
    plot_format: PlotFormat = DRAWN


Trend = Literal["improving", "stable", "degrading", "insufficient_data"]


class Statistics(Message):
    """What the window holds of one metric; the method is in the reference.

    `exact`: p95 is computed from the samples themselves; else from a
    logarithmic histogram, within 1 %. Mean, total and count are always exact.
    """

    mean: float | None
    p95: float | None
    total: float | None
    trend: Trend
    slope_per_day: float | None = Field(description="Of the trend, in the metric's unit per day.")
    minimum: float | None
    maximum: float | None
    count: int
    exact: bool
    unit: str | None


class Window(Message):
    since: datetime
    until: datetime


class Monitoring(Message):
    statistics: dict[str, Statistics] = Field(
        description="throughput, latency, costs, and the other metrics that were asked for."
    )
    plots: dict[str, Any] = Field(description="By metric; {} where there is nothing to draw.")
    recommendations: list[str]
    window: Window


LAST_ARRIVAL = 2**63 - 1
LAST_TIME = (datetime.max.replace(tzinfo=UTC) - EPOCH) // MICROSECOND
Arrival = Annotated[int, Field(ge=0, le=LAST_ARRIVAL)]
Microseconds = Annotated[int, Field(ge=0, le=LAST_TIME)]


class Heard(Message):
    """What somebody has heard of a model.

    `places`: of each writer (the lowest byte of an arrival) the last sample,
    by its arrival and its time in microseconds since 2000. `floor`: of all
    other writers everything up to this arrival. `alerted`: the time of the
    last alert, in microseconds since 2000.
    """

    floor: Arrival
    alerted: Microseconds
    places: list[tuple[Arrival, Microseconds]]


class Moments(Message):
    """When something arrived: columns of little-endian int64, an `Arrival` and a time each."""

    arrival: bytes
    at: bytes

    @classmethod
    def pack(cls, moments: Sequence[tuple[int, int]]) -> "Moments":
        arrival, at = (array("q", [moment[n] for moment in moments]).tobytes() for n in (0, 1))
        return cls(arrival=arrival, at=at)

    def unpack(self) -> list[tuple[int, int]]:
        return list(zip(array("q", self.arrival), array("q", self.at), strict=True))

    def part(self, first: int, last: int) -> "Moments":
        """Some of them, by their numbers."""
        return Moments(arrival=self.arrival[8 * first : 8 * last], at=self.at[8 * first : 8 * last])

    def __len__(self) -> int:
        return len(self.arrival) // 8


class HistoryRequest(Message):
    """What arrived of a model while somebody was away; exactly one of `since` and `heard`.

    `since`: the time of the last sample that was heard, whenever that arrived;
    if there is no such sample, the moment from which nothing was heard.
    """

    model_id: str
    since: datetime | None = None
    heard: Heard | None = None
    metrics: list[str] | None = None
    most: Annotated[int, Field(ge=1, le=10_000)] = 10_000


class RecallRequest(Message):
    """What was recorded at some moments, as History names them."""

    model_id: str
    moments: Moments
    metrics: list[str] | None = None


class MetricUpdate(Message):
    """What subscribers of the socket get.

    `arrival` orders what one writer commits, and what is in history by any of
    them: microseconds since 2000, times 256, and the writer's number.
    """

    model_id: str
    timestamp: str
    metrics: dict[str, float]
    arrival: int = 0


class History(Message):
    """By arrival; `complete` is False where there was more than asked for: these are the newest.

    `heard`: what the request's `since` was taken for.
    """

    moments: Moments
    complete: bool
    heard: Heard


class Recalled(Message):
    """Of the moments that were asked for the first `told`, but those that are there no more."""

    updates: list[MetricUpdate]
    told: int


class ModelRequest(Message):
    model_id: str


class KnownModel(Message):
    """Which metrics the account has recorded of a model."""

    metrics: list[str]


Severity = Literal["info", "warning", "critical"]


class NewRule(Input):
    """When to be told.

    threshold: the metric is `above` or `below` the value.
    change: the newest values are worse than their baseline by `percent`.
    silence: nothing was recorded for `after` seconds.
    """

    kind: Literal["threshold", "change", "silence"]
    model_id: ModelId | None = Field(None, description="All models of the account if left out.")
    metric: MetricName | None = Field(None, description="Any metric, for silence only.")
    above: float | None = None
    below: float | None = None
    percent: Annotated[float, Field(gt=0, le=10_000)] | None = None
    after: Annotated[int, Field(ge=10, le=30 * 86_400)] | None = None
    severity: Severity = "warning"


class Rule(Message):
    """`origin` is `default` for those that are there without set-up; they have no date."""

    id: str
    origin: Literal["default", "own"]
    kind: str
    model_id: str | None
    metric: str | None
    above: float | None = None
    below: float | None = None
    percent: float | None = None
    after: int | None = None
    severity: Severity
    created_at: datetime | None = None


class Rules(Message):
    rules: list[Rule]


class RuleRequest(Message):
    id: str


class Nothing(Message):
    """There is nothing more to say, or to ask."""


class Alert(Message):
    """An incident: raised once, recovered once."""

    id: str
    model_id: str
    type: str
    message: str
    severity: Severity
    metric: str | None
    raised_at: datetime
    recovered_at: datetime | None
    recovery: str | None = Field(None, description="What was said when it was over.")


class AlertsRequest(Message):
    """Newest first; `before` is the id of the last one seen."""

    model_id: str | None = Field(None, description="Of one model; of all if left out.")
    open_only: bool = Field(False, description="Only those that are not over yet.")
    before: str | None = Field(None, description="The id of the last alert of the page before.")
    limit: Annotated[int, Field(ge=1, le=200)] = 50


class Alerts(Message):
    alerts: list[Alert]


class AlertNews(Message):
    """What subscribers of the socket get, and the id under which it is stored.

    A recovery has the type of its alert with `_recovered` added. `at`: when
    it was raised, or recovered.
    """

    id: str
    model_id: str
    type: str
    message: str
    severity: Severity
    at: datetime | None = None


# A caller is told within two seconds that the database is away.
RECORD = Rpc("rpc.metrics.record", Samples, Recorded, timeout=1.8)
MONITOR = Rpc("rpc.metrics.monitor", MonitorRequest, Monitoring, timeout=1.8)
HISTORY = Rpc("rpc.metrics.history", HistoryRequest, History, timeout=1.8)
RECALL = Rpc("rpc.metrics.recall", RecallRequest, Recalled, timeout=1.8)
# Raises NotFound for a model that the account has never recorded anything of.
FIND_MODEL = Rpc("rpc.metrics.find_model", ModelRequest, KnownModel, timeout=1.8)
LIST_ALERTS = Rpc("rpc.metrics.list_alerts", AlertsRequest, Alerts, timeout=1.8)
LIST_RULES = Rpc("rpc.metrics.list_rules", Nothing, Rules, timeout=1.8)
ADD_RULE = Rpc("rpc.metrics.add_rule", NewRule, Rule, timeout=1.8)
REMOVE_RULE = Rpc("rpc.metrics.remove_rule", RuleRequest, Nothing, timeout=1.8)

# The last token is the model's id. One message per recorded moment; of a large batch the newest.
METRICS_RECORDED = Event("event.metrics.recorded", MetricUpdate)
ALERT_RAISED = Event("event.alert.raised", AlertNews)
