"""Statistics, plots and advice about a model."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from common.contracts import Input, Message, Rpc
from common.contracts.recording import MetricName, ModelId

PlotFormat = Literal["plotly", "vega-lite", "series"]
PLOT_FORMAT: PlotFormat = Field(
    "plotly", description="Plotly figure, Vega-Lite specification, or plain columns."
)


class MonitorRequest(Input):
    model_id: ModelId
    days: Annotated[int, Field(ge=1, le=365)] = Field(
        30, description="Length of the window, up to now."
    )
    metrics: Annotated[list[MetricName], Field(min_length=1, max_length=16)] | None = Field(
        None,
        examples=[["latency", "throughput"]],
        description="Metrics to plot; by default the recorded ones of the usual five.",
    )
    plot_format: PlotFormat = PLOT_FORMAT


Trend = Literal["improving", "stable", "degrading", "insufficient_data"]


class Statistics(Message):
    """Statistics of one metric in the window.

    `exact`: p95 is computed from the samples; otherwise from a logarithmic
    histogram, within 1 %. Mean, total and count are always exact.
    """

    mean: float | None = Field(description="Arithmetic mean; null without samples.")
    p95: float | None = Field(description="95th percentile; null without samples.")
    total: float | None = Field(description="Sum of all samples; null without samples.")
    trend: Trend = Field(
        description="Whether the metric gets better or worse; lower latency is better."
    )
    slope_per_day: float | None = Field(description="Slope in the metric's unit per day.")
    minimum: float | None = Field(description="Smallest sample.")
    maximum: float | None = Field(description="Largest sample.")
    count: int = Field(description="Samples in the window.")
    exact: bool = Field(description="Whether p95 is exact, else within 1 %.")
    unit: str | None = Field(
        description="Unit of the figures; null for a metric of the caller's own without one."
    )


class Window(Message):
    """The time that the answer covers; `until` is now, or the time of a sample ahead of now."""

    since: datetime = Field(description="Start of the window.")
    until: datetime = Field(
        description="End of the window: now, or the newest sample if that is ahead."
    )


class Finding(Message):
    """A change in a metric; `recommendations` says the same in words.

    incident: the level moved by `size` and returned at `end`, or has not returned yet.
    step: the level moved by `size` and stayed.
    slope: the level moves by `size` per day, as `unit` says.
    """

    kind: Literal["incident", "step", "slope"] = Field(description="Kind of change.")
    metric: str = Field(description="The metric that changed.")
    begin: datetime = Field(description="Time at which it began.")
    end: datetime | None = Field(description="Null while it lasts.")
    size: float = Field(description="Change of the level, in `unit`.")
    unit: str | None = Field(
        description="Unit of `size`; null for a metric of the caller's own without one."
    )
    confidence: float = Field(
        description="1 minus the chance that noise alone shows such a change in the window."
    )


class Monitoring(Message):
    statistics: dict[str, Statistics] = Field(
        description="throughput, latency, costs, and the other requested metrics."
    )
    plots: dict[str, Any] = Field(description="Plots by metric; {} for a metric without samples.")
    recommendations: list[str] = Field(description="Advice for people, one sentence each.")
    findings: list[Finding] = Field(description="Changes found; empty when there are none.")
    warnings: list[str] = Field([], description="Limitations of the answer, and their reasons.")
    window: Window = Field(description="The time that the answer covers.")


class ModelsRequest(Message):
    """Request for the models whose metrics the account recorded."""

    limit: Annotated[int, Field(ge=1, le=1_000)] = Field(100, description="Models per page.")
    before: str | None = Field(
        None, description="`next` of the previous page.", examples=["openai/gpt2"]
    )


class ModelsSelection(ModelsRequest):
    """Request for the metrics of one model, since an account may have thousands of models."""

    model_id: str | None = None


class RecordedModel(Message):
    model_id: str = Field(description="The model, as it was recorded.")
    metrics: list[str] = Field(description="All its metrics, by name.")


class RecordedModels(Message):
    """Models, the most recently recorded first; send `next` as `before` for the next page."""

    models: list[RecordedModel] = Field(description="One page of models.")
    next: str | None = Field(
        None, description="Value of `before` for the next page; null on the last."
    )


LIST_MODELS = Rpc(
    "rpc.metrics.list_models", ModelsSelection, RecordedModels, timeout=1.8, repeatable=True
)
MONITOR = Rpc("rpc.metrics.monitor", MonitorRequest, Monitoring, timeout=1.8, repeatable=True)
