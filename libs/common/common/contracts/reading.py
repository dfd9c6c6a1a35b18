"""Recorded samples: reading them, and deleting wrong ones."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from common.contracts import Message, Rpc
from common.contracts.recording import MetricName, ModelId
from common.contracts.timestamps import Moment
from common.faults import Hint

# A page as JSON takes 0.7 MB of the bus's 1 MB for a message.
MAX_PAGE_SAMPLES = 10_000
MAX_DELETED_SAMPLES = 500_000

From = Annotated[
    Moment | None,
    Field(
        alias="from",
        description="First time, RFC 3339; by default the oldest.",
        examples=["2026-01-31T12:00:00Z"],
    ),
]
To = Annotated[
    Moment | None,
    Field(
        description="Time before which to end, RFC 3339; by default no end.",
        examples=["2026-02-01T12:00:00Z"],
    ),
]


class SamplesRequest(Message):
    """Request for the samples of one metric of a model, oldest first."""

    model_id: ModelId
    metric: MetricName = Field(examples=["latency"], description="The metric, such as latency.")
    from_: From = None
    to: To = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE_SAMPLES)] = Field(
        1_000, description="Samples per page."
    )
    cursor: (
        Annotated[
            str,
            StringConstraints(pattern=r"^[0-9]{1,18}$"),
            Hint("must be the `next` of the last page, unchanged"),
        ]
        | None
    ) = Field(None, description="`next` of the previous page.", examples=["823640125"])
    format: Literal["json", "csv"] | None = Field(
        None, description="`csv` as `Accept: text/csv`; JSON by default."
    )


class Sample(Message):
    timestamp: datetime = Field(description="Its time, to the microsecond.")
    value: float = Field(description="The value, exactly as it was recorded.")


class RecordedSamples(Message):
    """A page of samples, oldest first."""

    model_id: str = Field(description="The model.")
    metric: str = Field(description="The metric.")
    unit: str | None = Field(description="Unit of the values; null where it is unknown.")
    samples: list[Sample] = Field(description="Samples by time, those recorded late included.")
    next: str | None = Field(
        None, description="Value of `cursor` for the next page; null on the last."
    )


class SamplesDeletion(Message):
    """Samples to delete: of one metric of a model or of all, within a span of time."""

    model_id: ModelId
    metric: MetricName | None = Field(
        None, description="The metric; by default all metrics.", examples=["latency"]
    )
    from_: From = None
    to: To = None


class SamplesDeleted(Message):
    """Confirmation that samples were deleted; no later answer contains them."""

    deleted: int = Field(description="Samples that were deleted.")


READ_SAMPLES = Rpc(
    "rpc.metrics.read_samples", SamplesRequest, RecordedSamples, timeout=1.8, repeatable=True
)
# Longer than the database takes for the largest deletion, or until it gives up.
DELETE_SAMPLES = Rpc("rpc.metrics.delete_samples", SamplesDeletion, SamplesDeleted, timeout=15.0)
