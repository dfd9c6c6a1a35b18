"""Figures of a measured model.

Every figure names its unit in the schema. A figure that was not measured is null, never 0, with
the reason beside it.
"""

from typing import Any, Literal

from pydantic import Field

from common.contracts import Message

Device = Literal["cpu", "cuda"]
Dtype = Literal["float32", "bfloat16", "float16"]
# Kinds of isolation of the process that loads a model: its own user, files, processes, no
# network, only the system calls that it needs, and a bound on the memory of all its processes.
Isolation = Literal["user", "files", "processes", "network", "system_calls", "memory"]
Regime = Literal["overhead", "bandwidth", "compute", "unknown"]


def figure(unit: str, description: str, alias: str | None = None) -> Any:
    """Declare a field for a measured or computed number with its unit; the number may be null."""
    return Field(
        None,
        description=f"{description} [{unit}]",
        json_schema_extra={"unit": unit},
        alias=alias,
        serialization_alias=alias,
    )


class Interval(Message):
    low: float = Field(description="Lower end, in the figure's unit.")
    high: float = Field(description="Upper end, in the figure's unit.")


class Distribution(Message):
    """Distribution of the times of one batch; a percentile is null if the sample is too small."""

    samples: int = Field(description="Timed calls.")
    effective_samples: float | None = figure(
        "1", "Equivalent number of independent samples, given the autocorrelation."
    )
    autocorrelation: float | None = figure("1", "Autocorrelation of successive calls at lag 1.")
    mean: float | None = figure("ms", "Arithmetic mean.")
    median: float | None = figure("ms", "Median.")
    standard_deviation: float | None = figure("ms", "Standard deviation of a call.")
    p50: float | None = figure("ms", "50th percentile.")
    p90: float | None = figure("ms", "90th percentile; from 64 samples on.")
    p95: float | None = figure("ms", "95th percentile; from 130 samples on.")
    p99: float | None = figure("ms", "99th percentile; from 662 samples on.")
    mean_interval: Interval | None = Field(
        None,
        description="95 % confidence interval of the mean; too narrow for few samples [ms]",
        json_schema_extra={"unit": "ms"},
    )
    median_interval: Interval | None = Field(
        None,
        description="95 % confidence interval of the median; too narrow for few samples [ms]",
        json_schema_extra={"unit": "ms"},
    )
    missing: dict[str, str] = Field({}, description="Reasons for null figures, by name.")


class MemoryUse(Message):
    """Peak memory of one batch size from a clean state: process, and GPU allocator."""

    peak_rss: float | None = figure(
        "MiB", "Largest resident set of a process that returns freed memory at once."
    )
    allocated: float | None = figure("MiB", "Largest sum of live tensors on the device.")
    reserved: float | None = figure("MiB", "Largest amount reserved by the device's allocator.")
    retries: int | None = Field(
        None, description="Times that the allocator had to empty its cache."
    )

    @property
    def used(self) -> float | None:
        """Return the memory that decides whether a size fits, in MiB."""
        return self.peak_rss if self.reserved is None else self.reserved


class GenerationUse(Message):
    """Figures of a generative model; one sample per timed call."""

    time_to_first_token: Distribution = Field(
        description="Time from the start of a call to its first new token.",
        json_schema_extra={"unit": "ms"},
    )
    inter_token_latency: Distribution = Field(
        description="Time between successive tokens of a call; the first token has none.",
        json_schema_extra={"unit": "ms"},
    )
    prefill_tokens_per_second: float | None = figure(
        "token/s", "Input tokens per second until the first new token."
    )
    decode_tokens_per_second: float | None = figure(
        "token/s", "New tokens of the batch after the first, per second."
    )
    tokens_per_second: float | None = figure(
        "token/s", "All new tokens of the batch, per second of the call."
    )


class EnergyUse(Message):
    per_inference: float | None = figure("J", "Gross energy per sample.")
    mean_power: float | None = figure("W", "Mean power over the window.")
    window: float | None = figure("s", "Length of the measurement; at least 5 s.")
    missing: str | None = Field(None, description="Why energy was not measured.")


class Point(Message):
    """Figures of one batch size."""

    batch_size: int = Field(description="Samples in one call.")
    throughput: float | None = figure("sample/s", "Batch size divided by mean latency.")
    latency: Distribution = Field(
        description="Wall-clock time of one synchronised call on a batch.",
        json_schema_extra={"unit": "ms"},
    )
    device_latency: Distribution | None = Field(
        None,
        description="Time of the same calls by the device's clock.",
        json_schema_extra={"unit": "ms"},
    )
    memory: MemoryUse = Field(description="Peak memory at this batch size.")
    generation: GenerationUse | None = Field(
        None, description="Figures of new tokens; null for a model that does not generate."
    )
    energy: EnergyUse = Field(description="Energy per sample, if the device reports it.")
    cost_per_inference: float | None = figure("USD", "Cost per sample.")
    cost_per_million_tokens: float | None = figure(
        "USD", "Cost per million tokens: new ones, or input."
    )
    bandwidth_share: float | None = figure(
        "1", "Bandwidth that a call needs at least, as a share of the measured ceiling."
    )
    compute_share: float | None = figure(
        "1", "Compute that a call needs, as a share of the measured ceiling."
    )
    suspect: list[str] = Field([], description="Reasons to doubt these figures.")


class Shortage(Message):
    """A batch size without figures."""

    batch_size: int = Field(description="Batch size without figures.")
    reason: Literal["out_of_memory", "predicted_out_of_memory", "not_measured"] = Field(
        description="`predicted_out_of_memory`: the size was not tried."
    )
    message: str = Field(description="Reason as a sentence.")


class MemoryModel(Message):
    """Peak memory against batch size: `base + per_sample * size`."""

    estimate: float | None = figure(
        "MiB", "Estimate before running: weights, cache and activations of one input."
    )
    weights: float | None = figure("MiB", "Exact size of parameters and buffers.")
    base: float | None = figure("MiB", "Fitted memory at batch size 0.")
    per_sample: float | None = figure("MiB", "Fitted memory per sample.")
    kept: float | None = figure(
        "MiB",
        "On a CPU: the most memory that the C library retained beyond the peak. The model"
        " does not need it, but a process with default settings takes it.",
    )
    available: float | None = figure("MiB", "Memory available on the device.")
    largest_batch: int | None = Field(None, description="Largest batch size predicted to fit.")


class Ceilings(Message):
    """Ceilings of the device, measured just before the run."""

    bandwidth: float | None = figure(
        "GB/s", "Memory bandwidth of a copy, reads and writes counted."
    )
    compute: float | None = figure("GFLOP/s", "Speed of a matrix product in the run's dtype.")


class Machine(Message):
    device: Device = Field(description="Device that the model ran on.")
    name: str = Field(description="Model of the processor or the GPU.")
    cores: int = Field(description="CPU cores that the process may use.")
    threads: int = Field(description="Threads that torch uses on a CPU.")
    memory: float | None = figure("MiB", "Memory of the device.")
    torch: str = Field("", description="Version of PyTorch.")
    transformers: str = Field("", description="Version of transformers.")


class Setup(Message):
    """Machine, model and configuration of a run."""

    machine: Machine = Field(description="Machine that ran the model.")
    task: str = Field(description="Task of the model.")
    commit: str = Field(description="The model's commit on the Hub.")
    dtype: str = Field(description="Type of the weights, such as float16.")
    attention: str = Field(description="Attention implementation, such as sdpa.")
    compiled: bool = Field(description="Whether code of torch.compile was observed to run.")
    parameters: int = Field(description="Number of parameters.")
    weights: float = Field(
        description="Size of parameters and buffers [MiB]", json_schema_extra={"unit": "MiB"}
    )
    base: float = Field(
        description="Memory before any sample: the weights; on a CPU the whole process [MiB]",
        json_schema_extra={"unit": "MiB"},
    )
    estimate: float | None = figure("MiB", "Static estimate of the peak at batch size 1.")
    available: float | None = figure("MiB", "Memory available to the model.")
    input: dict[str, list[int]] = Field(description="Shape of one input, without the batch.")
    tokens: int | None = Field(None, description="Tokens per input of a text model.")
    new_tokens: int | None = Field(None, description="New tokens per call.")
    operations: float | None = figure("FLOP", "Operations of one call on one sample.")
    bytes_per_call: float | None = figure(
        "B", "Weights that a call must read, repeated reads counted; the same for every batch size."
    )
    bytes_per_sample: float | None = figure(
        "B", "Keys and values that a call reads per sample; 0 without generation."
    )
    load_seconds: float | None = figure("s", "Time to load the model from its files.")
    missing_isolation: list[Isolation] = Field(
        [],
        description="Kinds of isolation that the worker's machine does not support.",
    )
    ceilings: Ceilings = Field(Ceilings(), description="Measured ceilings of the device.")
    missing: dict[str, str] = Field({}, description="Reasons for null figures, by name.")

    def like(self, other: "Setup") -> bool:
        """Return whether calls timed under both setups may be pooled.

        They may if machine, libraries and configuration are the same.
        """
        own, others = (
            (
                setup.machine.model_copy(update={"memory": None}),
                setup.dtype,
                setup.attention,
                setup.compiled,
            )
            for setup in (self, other)
        )
        return own == others


class Price(Message):
    """Basis of the costs: cost per sample = `perHour / 3600 / throughput / utilisation`."""

    per_hour: float = Field(
        description="Price per hour [USD/h]", json_schema_extra={"unit": "USD/h"}
    )
    currency: Literal["USD"] = Field("USD", description="Currency of every cost.")
    provider: str = Field(description="Provider of the machine; `custom` for your own price.")
    region: str = Field(description="Region of the provider.")
    kind: str = Field(description="`on_demand`, `spot` or `custom`.")
    machine: str = Field(description="Name of the machine at the provider.")
    as_of: str = Field(description="Date of the price, such as 2026-01-31.")
    source: str = Field(description="URL of the price list, or the party that set the price.")
    utilisation: float = Field(description="Share of an hour that the machine is assumed busy.")


class Results(Message):
    """Results of a run. The arrays align with `batchSizes`; a null size is listed in `errors`."""

    batch_sizes: list[int] = Field(description="Requested or searched batch sizes.")
    throughput: list[float | None] = Field(
        description="Throughput [sample/s]", json_schema_extra={"unit": "sample/s"}
    )
    latency: list[float | None] = Field(
        description="Mean latency of a batch [ms]; batch size = throughput x latency.",
        json_schema_extra={"unit": "ms"},
    )
    memory_usage: list[float | None] = Field(
        alias="memory_usage", description="Peak memory [MiB]", json_schema_extra={"unit": "MiB"}
    )
    cost_per_inference: list[float | None] = Field(
        alias="cost_per_inference",
        description="Cost per sample [USD]",
        json_schema_extra={"unit": "USD"},
    )
    errors: list[Shortage] = Field(description="Batch sizes without figures, with reasons.")
    points: list[Point] = Field(description="All figures of each measured batch size.")
    setup: Setup = Field(description="Machine, model and configuration of the run.")
    price: Price | None = Field(description="Basis of the costs; null without a price.")
    suspect: list[str] = Field(description="Reasons to doubt the run as a whole.")


class Pick(Message):
    batch_size: int | None = Field(description="Batch size to use; null if none was measured.")
    why: str = Field(description="Reason for this batch size.")
    bound_by: str = Field(description="Limiting factor.")


class Picks(Message):
    latency: Pick = Field(description="Fastest answer to a single caller.")
    balanced: Pick = Field(description="High throughput at moderate latency.")
    throughput: Pick = Field(description="Most samples per second.")
    cost: Pick = Field(description="Lowest cost per sample.")


class Analysis(Message):
    optimal_batch_size: int | None = Field(
        alias="optimal_batch_size",
        description="Best batch size under `constraint`; null if there is none.",
    )
    constraint: str = Field(description="Constraint on `optimal_batch_size`.")
    verified: bool = Field(
        description="Whether the neighbouring sizes, up to twice as large or small, were measured"
        " without doubt or do not fit, and are not better."
    )
    resource_recommendations: list[str] = Field(
        alias="resource_recommendations", description="Recommendations for machine and settings."
    )
    picks: Picks = Field(description="Recommended batch sizes by goal.")
    regime: Regime = Field(description="Resource that limits the model.")
    would_change: list[str] = Field(description="Changes that would favour another size.")
    memory: MemoryModel = Field(description="Peak memory against batch size.")
