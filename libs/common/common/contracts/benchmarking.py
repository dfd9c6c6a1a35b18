"""Benchmark runs: requests, answers, waiting, cancellation, and profiles for other services."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from common.contracts import Event, Input, Message, Rpc
from common.contracts.address import AddressText
from common.contracts.figures import Analysis, Device, Dtype, Results, figure
from common.contracts.monitoring import PLOT_FORMAT, PlotFormat

Attention = Literal["eager", "sdpa", "flash_attention_2"]
State = Literal["queued", "running", "succeeded", "failed", "canceled"]
OVER: frozenset[State] = frozenset(("succeeded", "failed", "canceled"))

MAX_BATCH_SIZE = 4096
MAX_SIZES = 32


def _once_each(sizes: list[int]) -> list[int]:
    if len(set(sizes)) != len(sizes):
        raise ValueError("each batch size must appear once")
    return sizes


class BenchmarkRequest(Input):
    """Request for a benchmark; without `batchSizes`, sizes up to 256 that fit are searched."""

    model_id: AddressText = Field(
        description="Id or address of a model on the Hugging Face Hub.",
        examples=["distilbert/distilbert-base-uncased"],
    )
    batch_sizes: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=MAX_BATCH_SIZE)]],
            Field(min_length=1, max_length=MAX_SIZES),
            AfterValidator(_once_each),
        ]
        | None
    ) = Field(
        None,
        examples=[[1, 2, 4, 8]],
        description="Up to 32 sizes from 1 to 4096, each measured in randomised rounds. When left"
        " out, sizes up to 256 that fit in memory are searched.",
    )
    iterations: Annotated[int, Field(ge=1, le=10_000)] = Field(
        64, description="Timed calls per batch size. p90 needs 64, p95 needs 130, p99 needs 662."
    )
    warmup: Annotated[int, Field(ge=0, le=1000)] = Field(
        5, description="Minimum warm-up calls; warm-up continues until latency is steady."
    )
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="Device to measure on; `auto` takes a GPU if a worker has one."
    )
    dtype: Dtype | None = Field(
        None, description="Type of the weights; defaults to float32 on a CPU, bfloat16 on a GPU."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="Branch, tag or commit; defaults to `main`.", examples=["main"]
    )
    compile: bool = Field(False, description="Whether to compile the model with torch.compile.")
    attention: Attention | None = Field(
        None, description="Attention implementation; defaults to the model's own."
    )
    input_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = Field(
        None,
        description="Tokens per input of a text model; at most the model's context length.",
    )
    new_tokens: Annotated[int, Field(ge=2, le=4096)] = Field(
        16, description="New tokens per input of a generative model."
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="Denoising steps per call of a diffusion model."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Seed of the random inputs and of the order of rounds."
    )
    latency_budget_ms: Annotated[float, Field(gt=0, le=3_600_000)] | None = Field(
        None,
        description="Largest mean batch latency that `optimal_batch_size` may have [ms].",
    )
    price_per_hour: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        None, description="Price of the machine [USD/h]; replaces the price table."
    )
    utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Share of an hour that the machine is busy; real services reach 0.3 to 0.6.",
    )
    plot_format: PlotFormat = PLOT_FORMAT


class Failure(Message):
    code: int = Field(description="Error code, as in `error.code`.")
    status: int = Field(description="HTTP status of the error.")
    message: str = Field(description="Description of the failure, and what to do.")
    reason: str = Field(description="Reason in one word, for programs.")


class Progress(Message):
    done: int = Field(description="Timed calls committed so far.")
    total: int = Field(description="Timed calls of the whole run.")


class Queue(Message):
    position: int = Field(description="Position in the queue; 1 is next.")
    estimate_seconds: float | None = figure(
        "s", "Time until the run starts, from recent durations; null while no worker is up."
    )


class Summary(Message):
    """Figures of a run's best batch size."""

    batch_size: int = Field(description="Best batch size.")
    throughput: float = Field(
        description="Throughput at that size [sample/s]", json_schema_extra={"unit": "sample/s"}
    )
    latency: float = Field(
        description="Mean latency of a batch [ms]", json_schema_extra={"unit": "ms"}
    )
    cost_per_inference: float | None = figure(
        "USD", "Cost of one inference; null where the price is unknown."
    )
    dtype: str = Field(description="Type of the weights, such as float16.")
    machine: str = Field(description="Machine that ran the model.")


class Run(Message):
    id: str = Field(description="Id of the run.")
    model_id: str = Field(description="Model being measured.")
    commit: str = Field(description="Pinned commit, 40 hexadecimal digits.")
    state: State = Field(description="`succeeded`, `failed` and `canceled` are final.")
    progress: Progress = Field(description="Progress of the run.")
    queue: Queue | None = Field(
        None, description="Position in the queue; null once the run has started."
    )
    results: Results | None = Field(
        None, description="Figures; null until the first size is measured."
    )
    analysis: Analysis | None = Field(
        None, description="Interpretation of the figures; null until there are results."
    )
    summary: Summary | None = Field(
        None, description="Figures of the best batch size, in lists too; null without one."
    )
    plots: dict[str, dict[str, Any]] | None = Field(
        None,
        description="Throughput, latency, memory and cost against batch size, in the requested"
        " format; null until there are results, and in lists.",
    )
    error: Failure | None = Field(None, description="Why the run failed; null otherwise.")
    created_at: datetime = Field(description="Time at which the run was accepted.")
    started_at: datetime | None = Field(None, description="Time at which a worker started the run.")
    stages: dict[str, datetime] = Field(
        {},
        description="Time at which each stage began: `fetching` the model, `loading` it,"
        " `warming` each batch size, `measuring`; empty until a worker starts the run.",
    )
    finished_at: datetime | None = Field(None, description="Time at which the run ended.")


class RunName(Message):
    id: str


class RunWait(Message):
    """Request to wait for a run's end, at most `seconds`; the reply is its state then."""

    id: str
    seconds: Annotated[float, Field(ge=0, le=15)] = 15


class RunsRequest(Message):
    """Request for the account's runs, newest first."""

    limit: Annotated[int, Field(ge=1, le=100)] = Field(20, description="Runs per page.")
    before: str | None = Field(
        None,
        description="`next` of the previous page.",
        examples=["bench_4f1d0c2a9b8e7d6c5b4a3928"],
    )
    model_id: AddressText | None = Field(
        None,
        description="Id or address of a model: only its runs, and of an address with a revision"
        " only those of that revision. By default the runs of all models.",
        examples=["openai-community/gpt2"],
    )


class Runs(Message):
    """A page of runs, newest first."""

    runs: list[Run] = Field(description="One page of runs.")
    next: str | None = Field(
        None, description="Value of `before` for the next page; null on the last."
    )


class QuoteRequest(Message):
    model_id: str
    device: Literal["auto", "cpu", "cuda"] = "auto"


class Quote(Message):
    """Position in the queue, waiting time and last cost of a run that is requested now."""

    queue: Queue
    last: Run | None = Field(
        None, description="The account's last successful run of the model, for its cost."
    )


class RunLimitsRequest(Message):
    pass


class RunLimit(Message):
    """The account's limit of runs: `left` of `limit` remain in `window` seconds.

    `reset`: seconds until one more may start than now; None while all may.
    """

    policy: Literal["benchmark", "verify"]
    limit: int
    window: int
    left: int
    reset: int | None = None


class RunLimits(Message):
    limits: list[RunLimit]


class PlotRequest(Message):
    id: str
    plot_format: PlotFormat = PLOT_FORMAT


class Plots(Message):
    """Plots against batch size: throughput, latency, memory and cost."""

    plots: dict[str, dict[str, Any]] = Field(
        description="Plots by quantity, in the requested format."
    )


class ProfileRequest(Message):
    """Request for a model's profile; without `device` or `dtype`, any matches."""

    model_id: str
    commit: str
    device: Device | None = None
    dtype: str | None = None


class Profile(Message):
    """Figures of the account's last successful run of a model; all null without one."""

    run_id: str | None = None
    device: Device | None = None
    machine: str | None = None
    dtype: str | None = None
    attention: str | None = None
    tokens: int | None = Field(None, description="Tokens of a sequence, generated ones included.")
    batch_size: int | None = Field(None, description="Optimal batch size.")
    peak_memory: float | None = figure("MiB", "Peak memory at `batchSize`.")
    base_memory: float | None = figure("MiB", "Memory at batch size 0: fitted, or as loaded.")
    memory_per_sample: float | None = figure("MiB", "Memory that each further sample takes.")
    measured_at: datetime | None = None


BENCHMARK = Rpc("rpc.benchmarker.start", BenchmarkRequest, Run, timeout=25.0)
GET_RUN = Rpc("rpc.benchmarker.get", RunName, Run, repeatable=True)
LIST_RUNS = Rpc("rpc.benchmarker.list", RunsRequest, Runs, repeatable=True)
CANCEL_RUN = Rpc("rpc.benchmarker.cancel", RunName, Run, repeatable=True)
# Shorter than the grace that a stopping service gives its open requests.
WAIT_FOR_RUN = Rpc("rpc.benchmarker.wait", RunWait, Run, timeout=18.0)
QUOTE = Rpc("rpc.benchmarker.quote", QuoteRequest, Quote, repeatable=True)
RUN_LIMITS = Rpc("rpc.benchmarker.limits", RunLimitsRequest, RunLimits, repeatable=True)
PLOT_RUN = Rpc("rpc.benchmarker.plot", PlotRequest, Plots, repeatable=True)
# The generator asks for a profile for every module, and continues without one on a timeout.
PROFILE = Rpc("rpc.benchmarker.profile", ProfileRequest, Profile, timeout=1.0, repeatable=True)


class BenchmarkProgress(Message):
    """Payload of the socket event `benchmark_progress`."""

    id: str = Field(description="Id of the run.")
    model_id: str = Field(description="Model being measured.")
    state: State = Field(description="State of the run.")
    done: int = Field(description="Timed calls committed so far.")
    total: int = Field(description="Timed calls of the whole run.")


PROGRESSED = Event("event.benchmark.progressed", BenchmarkProgress)
CANCELED = Event("event.benchmark.canceled", RunName)
