"""Runs that measure a model: asked for, waited for, canceled, and used by others."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StringConstraints

from common.contracts import Event, Input, Message, Rpc
from common.contracts.figures import Analysis, Device, Results, figure
from common.contracts.monitoring import DRAWN, PlotFormat

Dtype = Literal["float32", "bfloat16", "float16"]
State = Literal["queued", "running", "succeeded", "failed", "canceled"]
OVER: frozenset[State] = frozenset(("succeeded", "failed", "canceled"))

LARGEST_BATCH = 4096
MOST_SIZES = 32


def _once_each(sizes: list[int]) -> list[int]:
    if len(set(sizes)) != len(sizes):
        raise ValueError("a batch size stands twice")
    return sizes


class BenchmarkRequest(Input):
    """What to measure. Left out, `batchSizes` are searched for: up to 256, of what fits."""

    model_id: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="Id or address of a model on the Hugging Face Hub.",
        examples=["distilbert/distilbert-base-uncased"],
    )
    batch_sizes: (
        Annotated[
            list[Annotated[int, Field(ge=1, le=LARGEST_BATCH)]],
            Field(min_length=1, max_length=MOST_SIZES),
            AfterValidator(_once_each),
        ]
        | None
    ) = Field(
        None,
        description="Up to 32 sizes of 1 to 4096; each measured, in random rounds. Left out, sizes"
        " are searched for among those of up to 256 that fit.",
    )
    iterations: Annotated[int, Field(ge=1, le=10_000)] = Field(
        64, description="Timed calls per batch size; p90 needs 64, p95 130, p99 662."
    )
    warmup: Annotated[int, Field(ge=0, le=1000)] = Field(
        5, description="Calls before timing, at least; warming goes on until the times are steady."
    )
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Dtype | None = Field(
        None, description="Of the weights; float32 on a CPU and bfloat16 on a GPU when left out."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    compile: bool = Field(False, description="Whether the model goes through torch.compile.")
    attention: Literal["eager", "sdpa", "flash_attention_2"] | None = Field(
        None, description="Attention implementation; the model's default when left out."
    )
    input_tokens: Annotated[int, Field(ge=1, le=131_072)] | None = Field(
        None,
        description="Tokens per input, of models that read text; at most what the model reads.",
    )
    new_tokens: Annotated[int, Field(ge=2, le=4096)] = Field(
        16, description="Tokens generated per input, of models that generate."
    )
    steps: Annotated[int, Field(ge=1, le=1000)] = Field(
        20, description="Steps of denoising in a call, of models that draw."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="Of the random inputs and of the order of the rounds."
    )
    latency_budget_ms: Annotated[float, Field(gt=0, le=3_600_000)] | None = Field(
        None,
        description="The constraint of `optimal_batch_size`: mean latency of a batch at most this.",
    )
    price_per_hour: Annotated[float, Field(gt=0, le=100_000)] | None = Field(
        None, description="USD per hour of the machine, in place of the table's."
    )
    utilisation: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="Share of the hour that the machine is busy; real services reach 0.3 to 0.6.",
    )
    plot_format: PlotFormat = DRAWN


class Failure(Message):
    code: int
    status: int
    message: str
    reason: str


class Progress(Message):
    done: int = Field(description="Timed calls that are committed.")
    total: int


class Queue(Message):
    position: int = Field(description="1 is next.")
    estimate_seconds: float | None = figure(
        "s", "Until it starts, by the last runs' duration; null while no worker is up."
    )


class Run(Message):
    id: str
    model_id: str
    commit: str
    state: State
    progress: Progress
    queue: Queue | None = None
    results: Results | None = None
    analysis: Analysis | None = None
    plots: dict[str, dict[str, Any]] | None = Field(
        None,
        description="Throughput, latency, memory and cost against batch size, in the format that"
        " was asked for; null until there are results, and in lists.",
    )
    error: Failure | None = None
    created_at: datetime
    started_at: datetime | None = None
    finished_at: datetime | None = None


class RunName(Message):
    id: str


class RunWait(Message):
    """Answered when the run is over, or after `seconds`, with the run as it then is."""

    id: str
    seconds: Annotated[float, Field(ge=0, le=15)] = 15


class RunsRequest(Message):
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    before: str | None = Field(None, description="The id that the last page gave as `next`.")


class Runs(Message):
    """Newest first; `next` is the id to send as `before` for more."""

    runs: list[Run]
    next: str | None = None


class PlotRequest(Message):
    id: str
    plot_format: PlotFormat = DRAWN


class Plots(Message):
    """Per quantity one figure against batch size: throughput, latency, memory, cost."""

    plots: dict[str, dict[str, Any]]


class ProfileRequest(Message):
    """Left out, any `device` and `dtype` will do."""

    model_id: str
    commit: str
    device: Device | None = None
    dtype: str | None = None


class Profile(Message):
    """What was measured of a model by the account's last good run; all null when there is none."""

    run_id: str | None = None
    device: Device | None = None
    machine: str | None = None
    dtype: str | None = None
    attention: str | None = None
    tokens: int | None = Field(None, description="Of a sequence, those generated included.")
    batch_size: int | None = Field(None, description="The optimal one.")
    peak_memory: float | None = figure("MiB", "At `batchSize`.")
    base_memory: float | None = figure("MiB", "At size 0: fitted, or as loaded.")
    memory_per_sample: float | None = figure("MiB", "Slope of the peak.")
    measured_at: datetime | None = None


BENCHMARK = Rpc("rpc.benchmarker.start", BenchmarkRequest, Run, timeout=25.0)
GET_RUN = Rpc("rpc.benchmarker.get", RunName, Run)
LIST_RUNS = Rpc("rpc.benchmarker.list", RunsRequest, Runs)
CANCEL_RUN = Rpc("rpc.benchmarker.cancel", RunName, Run)
# Ends before a service that is stopping gives up on what it still answers.
WAIT_FOR_RUN = Rpc("rpc.benchmarker.wait", RunWait, Run, timeout=18.0)
PLOT_RUN = Rpc("rpc.benchmarker.plot", PlotRequest, Plots)
# The generator asks it for every module, and makes do without an answer.
PROFILE = Rpc("rpc.benchmarker.profile", ProfileRequest, Profile, timeout=1.0)


class BenchmarkProgress(Message):
    """What the socket hears as `benchmark_progress`."""

    id: str
    model_id: str
    state: State
    done: int
    total: int


PROGRESSED = Event("event.benchmark.progressed", BenchmarkProgress)
CANCELED = Event("event.benchmark.canceled", RunName)
