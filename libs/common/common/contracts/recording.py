"""Recording of metrics: records as callers send them, and samples as the bus carries them."""

from array import array
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, FailFast, Field, StringConstraints

from common.contracts import Event, Input, Message, Rpc
from common.contracts.address import model_id_of
from common.contracts.invisible import (
    CONTROLS,
    check_no_controls,
    check_not_blank,
    check_visible,
)
from common.contracts.timestamps import Timestamp, to_us
from common.faults import Hint

MAX_RECORDS = 10_000
# As many samples as fit into one message on the bus: 10,000 records of the five usual metrics.
MAX_SAMPLES = 50_000
MAX_METRICS = 64
# The largest window of `/monitor`: no answer includes an older sample.
MAX_AGE = timedelta(days=365)

# Units: samples/s, ms, MiB, MiB, USD.
USUAL_METRICS = (
    "throughput",
    "latency",
    "memory_usage",
    "gpu_memory_usage",
    "cost_per_inference",
)

ModelId = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$"
    ),
    # First, since an address may be longer than any name.
    BeforeValidator(lambda name: model_id_of(name) if isinstance(name, str) else name),
    Hint('must be 1 to 256 characters without control characters, such as "openai/gpt2"'),
    Field(
        description="Any name, usually the model's id on the Hub; its address there names the same"
        " model.",
        examples=["openai/gpt2"],
    ),
]
# A model that metrics are recorded for, or a rule is made for. Ids that were recorded before this
# rule can still be read and deleted.
NewModelId = Annotated[ModelId, AfterValidator(check_no_controls), AfterValidator(check_not_blank)]
MetricName = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$"),
    Hint("a metric's name is a letter and up to 63 of a-z, 0-9 and _, such as val_loss"),
]
# Metrics that cannot be negative, also when measured at one batch size.
NON_NEGATIVE_METRICS = frozenset({*USUAL_METRICS, "memory_limit", "gpu_memory_limit", "batch_size"})
# Beyond any measurement, and far enough below the largest float for squares and sums.
Value = Annotated[float, Field(ge=-1e100, le=1e100)]


def _check_signs(metrics: dict[str, float]) -> dict[str, float]:
    if min(metrics.values()) < 0:
        for name, value in metrics.items():
            if value < 0 and name.partition("_batch_")[0] in NON_NEGATIVE_METRICS:
                raise ValueError(f"{name} cannot be negative; record it as 0 or more")
    return metrics


def _check_age(moment: datetime) -> datetime:
    oldest = datetime.now(UTC) - MAX_AGE
    if moment < oldest:
        raise ValueError(
            f"the time is before {oldest:%Y-%m-%dT%H:%M:%SZ}, and no answer goes back further"
            f" than {MAX_AGE.days} days; is the clock right?"
        )
    return moment


RecordedAt = Annotated[Timestamp, AfterValidator(_check_age)]


class Record(Input):
    """Metrics of one moment. A repeated model, time and metric is stored once."""

    model_id: NewModelId
    timestamp: RecordedAt | None = Field(
        None,
        description="RFC 3339, to the microsecond, at most 365 days ago; now by default.",
    )
    metrics: Annotated[
        dict[MetricName, Value],
        Field(min_length=1, max_length=MAX_METRICS),
        AfterValidator(_check_signs),
    ] = Field(
        description="throughput in samples/s, latency in ms, memory_usage and "
        "gpu_memory_usage in MiB, cost_per_inference in USD, and any others.",
        examples=[{"throughput": 120.5, "latency": 8.3}],
    )


UNIT = (
    StringConstraints(pattern=rf"^[^{CONTROLS}\s]([^{CONTROLS}]{{0,30}}[^{CONTROLS}\s])?$"),
    Hint("a unit holds 1 to 32 printable characters and no space around them, such as tokens"),
)


class MetricDescription(Input):
    """The description of an account's own metric; a later one replaces it."""

    kind: Literal["any", "amount", "share"] = Field(
        "any",
        description="An `amount` cannot be negative, and a `share` is from 0 to 1: other values"
        " are refused by the metric's name.",
    )
    unit: Annotated[str, *UNIT, AfterValidator(check_visible)] | None = Field(
        None, description="Unit of its values; else derived from its name.", examples=["tokens"]
    )
    more_is_better: bool | None = Field(
        None, description="Whether more is better; else derived from its name."
    )


def impossible(name: str, value: float, description: MetricDescription) -> str | None:
    """Return why a metric cannot have a value; None if it can."""
    if description.kind != "any" and value < 0:
        return f"{name} cannot be negative; record it as 0 or more"
    if description.kind == "share" and value > 1:
        return f"{name} is a share and cannot exceed 1; record it as 0 to 1"
    return None


def _check_described(described: dict[str, MetricDescription]) -> dict[str, MetricDescription]:
    for name in described:
        if name.partition("_batch_")[0] in NON_NEGATIVE_METRICS:
            raise ValueError(f"{name} is a built-in metric; omit its description")
    return described


class Records(Input):
    """Records that are stored together: all of them, or none."""

    # Report the first wrong record, not ten thousand.
    records: Annotated[list[Record], Field(min_length=1, max_length=MAX_RECORDS), FailFast()] = (
        Field(
            description="Up to 10,000 records, with 50,000 values in all.",
            examples=[[{"modelId": "openai/gpt2", "metrics": {"latency": 8.3}}]],
        )
    )
    descriptions: Annotated[
        dict[MetricName, MetricDescription],
        Field(max_length=MAX_METRICS),
        AfterValidator(_check_described),
    ] = Field(
        default={},
        description="Descriptions of your own metrics, by name. They apply to all of your models"
        " and to earlier records: statistics, plots, advice and alerts follow them.",
        examples=[{"tokens_per_request": {"kind": "amount", "unit": "tokens"}}],
    )


class Samples(Message):
    """Records as columns, which need an eighth of the bytes and no parsing.

    Little-endian arrays: for each record the model (uint16, an index into
    `models`), the time (int64, microseconds since 2000; 0 stands for now) and
    the number of its metrics (uint16); for each of those, one after the other,
    the metric (uint16, an index into `metrics`) and the value (float64).
    """

    # An earlier version of the gateway sends addresses; two of one model become equal here.
    models: list[Annotated[str, AfterValidator(model_id_of)]]
    metrics: list[str]
    model: bytes
    at: bytes
    size: bytes
    metric: bytes
    value: bytes
    descriptions: dict[str, MetricDescription] = {}

    @property
    def have_times(self) -> bool:
        """Whether each record has a time, so that it is stored once however often it is sent."""
        return all(array("q", self.at))

    @classmethod
    def from_records(cls, records: Iterable[Record]) -> "Samples":
        models: dict[str, int] = {}
        metrics: dict[str, int] = {}
        model, size, metric = array("H"), array("H"), array("H")
        at, value = array("q"), array("d")
        for record in records:
            model.append(models.setdefault(record.model_id, len(models)))
            time = record.timestamp
            at.append(0 if time is None else to_us(time))
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
    """Confirmation that the samples are committed, and visible to the next request."""

    status: Literal["success"] = Field(
        "success", description="Always `success`: the samples are committed."
    )
    duplicates: int = Field(
        0,
        exclude_if=lambda count: not count,
        description="Ignored values, whose model, metric and time were recorded before."
        " Absent if there are none.",
    )


# Bytes counted per stored sample: its row and its index entry in PostgreSQL.
SAMPLE_BYTES = 100


class StorageRequest(Message):
    """Request for the account's storage use."""


class StorageUse(Message):
    """Storage that the account uses, and its limits."""

    samples: int = Field(description="Samples stored for the account.")
    bytes: int = Field(description=f"Size of the samples, at {SAMPLE_BYTES} bytes each.")
    max_bytes: int = Field(
        description="Max size of the samples; beyond it recording is refused with code 1005."
    )
    staged_samples: int = Field(description="Samples older than a day that wait to be merged.")
    max_staged_samples: int = Field(description="Max samples that may wait to be merged.")
    series: int = Field(description="Pairs of model and metric.")
    max_series: int = Field(description="Max series that the account may have.")


Change = Literal["descriptions", "rules", "samples"]


class MetricsChanged(Message):
    """A change of an account's metrics, after which cached answers about them are stale.

    Without `what`, as earlier versions publish it, anything may have changed.
    """

    account: str
    what: Change | None = None
    model_id: str | None = Field(
        default=None, description="The only model that the change is about; absent if all are."
    )


STORAGE = Rpc("rpc.metrics.storage", StorageRequest, StorageUse, timeout=1.8, repeatable=True)

# Short enough that a caller learns within two seconds that the database is unavailable.
# A record without a time gets the current one, so that its caller must not repeat it.
RECORD = Rpc("rpc.metrics.record", Samples, Recorded, timeout=1.8, repeatable=True)

# Every replica of the metrics service listens.
METRICS_CHANGED = Event("event.metrics.changed", MetricsChanged)
