"""What comes out of measuring a model.

Every figure names its unit in the schema. A figure that was not measured is
null, with the reason beside it; it is never 0.
"""

from typing import Any, Literal

from pydantic import Field

from common.contracts import Message

Device = Literal["cpu", "cuda"]
Regime = Literal["overhead", "bandwidth", "compute", "unknown"]


def figure(unit: str, description: str, alias: str | None = None) -> Any:
    """A number that was measured or computed, with its unit; null when it was not."""
    return Field(
        None,
        description=f"{description} [{unit}]",
        json_schema_extra={"unit": unit},
        alias=alias,
        serialization_alias=alias,
    )


class Interval(Message):
    low: float
    high: float


class Distribution(Message):
    """Of one batch's times. Percentiles stand only where the sample is large enough for them."""

    samples: int = Field(description="Timed calls.")
    effective_samples: float | None = figure(
        "1", "Independent samples worth as much, given the autocorrelation."
    )
    autocorrelation: float | None = figure("1", "Of successive calls, at lag 1.")
    mean: float | None = figure("ms", "Arithmetic mean.")
    median: float | None = figure("ms", "Median.")
    standard_deviation: float | None = figure("ms", "Of a single call.")
    p50: float | None = figure("ms", "50th percentile.")
    p90: float | None = figure("ms", "90th percentile; from 64 samples on.")
    p95: float | None = figure("ms", "95th percentile; from 130 samples on.")
    p99: float | None = figure("ms", "99th percentile; from 662 samples on.")
    mean_interval: Interval | None = Field(
        None,
        description="95 % confidence interval of the mean; of few samples too narrow [ms]",
        json_schema_extra={"unit": "ms"},
    )
    median_interval: Interval | None = Field(
        None,
        description="95 % confidence interval of the median; of few samples too narrow [ms]",
        json_schema_extra={"unit": "ms"},
    )
    missing: dict[str, str] = Field({}, description="Why a figure is null.")


class MemoryUse(Message):
    """Peaks of one batch size from a clean state: of the process, and of a GPU's allocator."""

    peak_rss: float | None = figure(
        "MiB", "Largest resident set of a process that gives back at once what is freed."
    )
    allocated: float | None = figure("MiB", "Largest sum of live tensors on the device.")
    reserved: float | None = figure("MiB", "Largest sum held by the device's allocator.")
    retries: int | None = Field(None, description="Times the allocator had to free its cache.")

    @property
    def used(self) -> float | None:
        """The figure that decides whether a size fits, in MiB."""
        return self.peak_rss if self.reserved is None else self.reserved


class GenerationUse(Message):
    """Of models that generate; one sample of each per timed call."""

    time_to_first_token: Distribution = Field(json_schema_extra={"unit": "ms"})
    inter_token_latency: Distribution = Field(
        description="Gaps between successive tokens of the same call; the first token has none.",
        json_schema_extra={"unit": "ms"},
    )
    prefill_tokens_per_second: float | None = figure(
        "token/s", "Input tokens over time to the first."
    )
    decode_tokens_per_second: float | None = figure(
        "token/s", "All but the first token, of the batch."
    )
    tokens_per_second: float | None = figure(
        "token/s", "All new tokens of the batch over the call."
    )


class EnergyUse(Message):
    per_inference: float | None = figure("J", "Gross, of one sample.")
    mean_power: float | None = figure("W", "Over the window.")
    window: float | None = figure("s", "How long was counted; 5 s at least.")
    missing: str | None = Field(None, description="Why there is no figure.")


class Point(Message):
    """One batch size."""

    batch_size: int
    throughput: float | None = figure("sample/s", "Batch size over mean latency.")
    latency: Distribution = Field(
        description="Wall clock of one call on a batch, synchronised.",
        json_schema_extra={"unit": "ms"},
    )
    device_latency: Distribution | None = Field(
        None,
        description="The same calls by the device's own clock.",
        json_schema_extra={"unit": "ms"},
    )
    memory: MemoryUse
    generation: GenerationUse | None = None
    energy: EnergyUse
    cost_per_inference: float | None = figure("USD", "Of one sample.")
    cost_per_million_tokens: float | None = figure("USD", "New tokens if it generates, else read.")
    bandwidth_share: float | None = figure(
        "1", "Weights, keys and values that a call must read over what could be read."
    )
    compute_share: float | None = figure("1", "Operations of a call over what could be computed.")
    suspect: list[str] = Field([], description="Why these figures deserve doubt.")


class Shortage(Message):
    """A size without figures."""

    batch_size: int
    reason: Literal["out_of_memory", "predicted_out_of_memory", "not_measured"]
    message: str


class MemoryModel(Message):
    """Peak memory against batch size: `base + per_sample * size`."""

    estimate: float | None = figure(
        "MiB", "Before running: weights, cache, activations of one input."
    )
    weights: float | None = figure("MiB", "Parameters and buffers, exact.")
    base: float | None = figure("MiB", "Fitted, at size 0.")
    per_sample: float | None = figure("MiB", "Fitted slope.")
    kept: float | None = figure(
        "MiB",
        "On a CPU: what the C library of the timed process kept for later calls beyond the peak,"
        " at most. No model asks for it, but a process with usual settings takes it.",
    )
    available: float | None = figure("MiB", "What the device had.")
    largest_batch: int | None = Field(None, description="Largest size predicted to fit.")


class Ceilings(Message):
    """What this very device was measured to do, just before the run."""

    bandwidth: float | None = figure("GB/s", "Of copying, read and write counted.")
    compute: float | None = figure("GFLOP/s", "Of a matrix product of random numbers in the dtype.")


class Machine(Message):
    device: Device
    name: str
    cores: int = Field(description="Of the CPU, that the process may use.")
    threads: int = Field(description="That torch computes with on a CPU.")
    memory: float | None = figure("MiB", "Of the device.")
    torch: str = ""
    transformers: str = ""


class Setup(Message):
    """Where and on what it was measured."""

    machine: Machine
    task: str
    commit: str
    dtype: str
    attention: str
    compiled: bool = Field(description="Whether code that torch.compile has made was seen to run.")
    parameters: int
    weights: float = Field(description="[MiB]", json_schema_extra={"unit": "MiB"})
    base: float = Field(
        description="Taken before any sample: the weights, on a CPU the whole process [MiB]",
        json_schema_extra={"unit": "MiB"},
    )
    estimate: float | None = figure("MiB", "Static estimate of the peak at size 1.")
    available: float | None = figure("MiB", "What the model could have had.")
    input: dict[str, list[int]] = Field(description="Shape of one input, without the batch.")
    tokens: int | None = Field(None, description="Tokens of one input, of models that read text.")
    new_tokens: int | None = None
    operations: float | None = figure("FLOP", "Of one call on one sample.")
    bytes_per_call: float | None = figure(
        "B", "Weights that a call reads at the least, whatever the batch, each time that it does."
    )
    bytes_per_sample: float | None = figure(
        "B", "Keys and values that a call reads for each sample; 0 where nothing is generated."
    )
    load_seconds: float | None = figure("s", "From files to ready.")
    ceilings: Ceilings = Ceilings()
    missing: dict[str, str] = Field({}, description="Why a figure is null.")

    def like(self, other: "Setup") -> bool:
        """Whether calls timed under both may stand in one sample.

        They may on the same kind of machine, with the same libraries and configuration.
        """
        mine, others = (
            (
                setup.machine.model_copy(update={"memory": None}),
                setup.dtype,
                setup.attention,
                setup.compiled,
            )
            for setup in (self, other)
        )
        return mine == others


class Price(Message):
    """Where a cost comes from; recompute it as `perHour / 3600 / throughput / utilisation`."""

    per_hour: float = Field(description="[USD/h]", json_schema_extra={"unit": "USD/h"})
    currency: Literal["USD"] = "USD"
    provider: str
    region: str
    kind: str = Field(description="on_demand, spot or custom.")
    machine: str
    as_of: str = Field(description="Date of the price, as in 2026-01-31.")
    source: str
    utilisation: float


class Results(Message):
    """The four arrays are aligned with `batchSizes`; null is a size named in `errors`."""

    batch_sizes: list[int]
    throughput: list[float | None] = Field(
        description="[sample/s]", json_schema_extra={"unit": "sample/s"}
    )
    latency: list[float | None] = Field(
        description="Mean of a batch [ms]; batch size = throughput x latency.",
        json_schema_extra={"unit": "ms"},
    )
    memory_usage: list[float | None] = Field(
        alias="memory_usage", description="Peak [MiB]", json_schema_extra={"unit": "MiB"}
    )
    cost_per_inference: list[float | None] = Field(
        alias="cost_per_inference", description="[USD]", json_schema_extra={"unit": "USD"}
    )
    errors: list[Shortage]
    points: list[Point]
    setup: Setup
    price: Price | None
    suspect: list[str] = Field(description="Why the run as a whole deserves doubt.")


class Pick(Message):
    batch_size: int | None
    why: str
    bound_by: str = Field(description="What keeps it from being better.")


class Picks(Message):
    latency: Pick
    balanced: Pick
    throughput: Pick
    cost: Pick


class Analysis(Message):
    optimal_batch_size: int | None = Field(alias="optimal_batch_size")
    constraint: str = Field(description="Under which `optimal_batch_size` is optimal.")
    verified: bool = Field(
        description="Whether both neighbours, at most twice as large or as small, were measured or"
        " do not fit, are not better, and there is no doubt of their figures."
    )
    resource_recommendations: list[str] = Field(alias="resource_recommendations")
    picks: Picks
    regime: Regime = Field(description="What holds it back.")
    would_change: list[str] = Field(description="What would make another size the right one.")
    memory: MemoryModel
