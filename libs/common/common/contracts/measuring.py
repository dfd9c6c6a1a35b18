"""Messages between the benchmarker's control and its workers; none names an account."""

from typing import Literal, get_args

from pydantic import Field

from common.contracts import Job, Message, Rpc
from common.contracts.benchmarking import Attention, BenchmarkRequest, Failure
from common.contracts.figures import EnergyUse, Isolation, MemoryUse, Setup, Shortage
from common.contracts.generation import ReadBy
from common.contracts.verification import Verdict

Class = Literal["cpu", "gpu"]
# Stages of a run after the model is fetched. Warming calls each size once to measure its memory.
Stage = Literal["loading", "warming", "measuring"]
SEARCHING = -1
# Version of the job format. A change that earlier workers would misread raises it, and names the
# new version in the jobs that need it.
JOB_VERSION = 2
# Version of jobs whose model needs the account's own Hub token: an earlier worker would read the
# model with the operator's token, into the cache that all runs share.
OWN_TOKEN_VERSION = 2


class ModelAt(Message):
    id: str
    commit: str
    task: str
    library: str


class Trial(Message):
    """A module to run once: its files by name."""

    files: dict[str, str]


class JobVersion(Message):
    """The part of a job that every worker can read."""

    version: int = Field(1, description="Lowest `JOB_VERSION` of a worker that can read the job.")


class Measurement(JobVersion):
    """One job: a model to measure at some batch sizes, or a module of the model to run once."""

    id: str
    model: ModelAt
    request: BenchmarkRequest
    trial: Trial | None = None
    manifest: str | None = Field(
        None,
        description="The module's `module.yaml`, whose files of the model are fetched; a trial"
        " has it among its files.",
    )
    read_by: ReadBy = Field(
        "anybody", description="Audience of the model; for `account` the ticket holds the token."
    )
    weights: float = Field(
        0.0,
        description="Memory that the weights need once loaded [MiB]",
        json_schema_extra={"unit": "MiB"},
    )
    request_id: str = Field("", description="Id of the request that asked for the run.")
    traceparent: str = Field("", description="Trace and span of that request, if it has any.")


def version_for(read_by: ReadBy) -> int:
    """Return the lowest worker version that can run a model with this `read_by`."""
    return OWN_TOKEN_VERSION if read_by == "account" else 1


class Samples(Message):
    """Timed calls at one batch size, in nanoseconds.

    Attributes:
        round: SEARCHING for calls by which sizes are chosen; these are not in the figures.
        steps: time of each new token since the start of its call.
        neighbours: cores that other processes kept busy, if no core was idle.
        sharing: other processes that use the GPU.
        steady: whether latency was steady before the size's first block.
        compiled: whether code of torch.compile ran; None if it was not requested or not observed.
    """

    round: int
    batch_size: int
    wall: list[int]
    device: list[int] | None = None
    steps: list[list[int]] | None = None
    neighbours: float | None = None
    sharing: int | None = None
    throttled: list[str] = []
    steady: bool | None = None
    compiled: bool | None = None
    peak_rss: float | None = Field(
        None,
        description="Largest resident set of the timed process so far [MiB]",
        json_schema_extra={"unit": "MiB"},
    )

    @property
    def mean(self) -> float:
        """Mean duration of a call, in ms."""
        return sum(self.wall) / len(self.wall) / 1e6


class SizeFacts(Message):
    batch_size: int
    memory: MemoryUse | None = None
    shortage: Shortage | None = None
    energy: EnergyUse | None = None


class Take(Message):
    id: str
    worker: str = Field(description="Name of the delivery, new each time.")
    sealing_key: str | None = Field(
        None, description="Public key for the Hub token, which other workers must not read."
    )


class Ticket(Message):
    """Reply to a delivery: whether to run the job, and figures of earlier deliveries.

    They were measured under `setup`; a worker on another kind of machine starts over.
    """

    run: bool
    held: bool = Field(False, description="Whether another delivery holds the run; ask again.")
    hub_token: str | None = Field(
        None,
        repr=False,
        description="The Hub token, from older versions of control.",
    )
    sealed_hub_token: str | None = Field(
        None, description="Hub token of the account, for a model that needs it."
    )
    setup: Setup | None = None
    blocks: list[tuple[int, int]] = Field([], description="Committed blocks: (round, batch size).")
    sizes: list[SizeFacts] = []
    looked: list[tuple[int, float]] = Field(
        [], description="(batch size, mean latency in ms) of sizes that the search has timed."
    )
    chosen: list[int] = Field([], description="Sizes that the search has chosen.")
    lost: int = Field(
        0, description="Consecutive deliveries that ended without a report and without progress."
    )


class Report(Message):
    """Figures of a delivery, or nothing but a heartbeat.

    `given_back` ends the delivery without blaming the job.
    """

    id: str
    worker: str
    setup: Setup | None = None
    samples: Samples | None = None
    size: SizeFacts | None = None
    chosen: list[int] | None = None
    stage: Stage | None = Field(None, description="Stage that begins now.")
    given_back: bool = False


class ReportReply(Message):
    """Reply to a report; `run` is false once the run is canceled, finished or another worker's."""

    run: bool


class End(Message):
    id: str
    worker: str
    error: Failure | None = None
    verdict: Verdict | None = None


class Announcement(Message):
    """Heartbeat of a worker, with its machine."""

    worker: str
    name: str
    device_class: Class
    memory: float = Field(
        description="Largest memory that a model may take [MiB]", json_schema_extra={"unit": "MiB"}
    )
    dtypes: list[str]
    attentions: list[str] = Field(
        [*get_args(Attention)], description="Installed attention implementations."
    )
    compiles: bool = Field(True, description="Whether torch.compile works on the machine.")
    missing_isolation: list[Isolation] = []


class Received(Message):
    pass


MEASURE = Job("job.benchmarker.measure", Measurement)
TAKE = Rpc("rpc.benchmarker.take", Take, Ticket)
REPORT = Rpc("rpc.benchmarker.report", Report, ReportReply)
END = Rpc("rpc.benchmarker.end", End, Received, timeout=10.0)
ANNOUNCE = Rpc("rpc.benchmarker.announce", Announcement, Received)
