"""What passes between the benchmarker's control and its workers; no account is in it."""

from typing import Literal

from pydantic import Field

from common.contracts import Job, Message, Rpc
from common.contracts.benchmarking import BenchmarkRequest, Failure
from common.contracts.figures import EnergyUse, MemoryUse, Setup, Shortage
from common.contracts.verification import Verdict

Class = Literal["cpu", "gpu"]
SEARCHING = -1


class ModelAt(Message):
    id: str
    commit: str
    task: str
    library: str


class Trial(Message):
    """A module to be run once: its files by name."""

    files: dict[str, str]


class Measurement(Message):
    """The work: one model in one configuration at some batch sizes, or a module of it to try."""

    id: str
    model: ModelAt
    request: BenchmarkRequest
    trial: Trial | None = None
    weights: float = Field(
        0.0,
        description="What the model's take, once they are loaded [MiB]",
        json_schema_extra={"unit": "MiB"},
    )


class Samples(Message):
    """Some timed calls at one batch size, nanoseconds each.

    `round` is SEARCHING for those by which sizes are chosen; they are not in the figures.
    `steps` has the moment of each generated token since its call's start.
    `neighbours` is how many cores others kept busy meanwhile, where none was left idle; `sharing`
    how many processes have the GPU beside the one that measures. `steady` says whether the calls
    before a size's first block had become so. `compiled` says whether the calls
    ran what torch.compile has made, where that was asked for and looked at.
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
        """Of a call, in ms."""
        return sum(self.wall) / len(self.wall) / 1e6


class SizeFacts(Message):
    batch_size: int
    memory: MemoryUse | None = None
    shortage: Shortage | None = None
    energy: EnergyUse | None = None


class Take(Message):
    id: str
    worker: str = Field(description="Who takes it, new for each delivery.")


class Ticket(Message):
    """Whether to run, and what an earlier delivery has already brought in.

    All of it was measured under `setup`; a worker on another kind of machine begins anew.
    """

    run: bool
    setup: Setup | None = None
    blocks: list[tuple[int, int]] = Field([], description="(round, batch size) that are committed.")
    sizes: list[SizeFacts] = []
    looked: list[tuple[int, float]] = Field(
        [], description="(batch size, mean latency in ms) that a search has timed."
    )
    chosen: list[int] = Field([], description="Sizes that a search has settled on.")
    lost: int = Field(
        0, description="Deliveries in a row that ended without a word and without progress."
    )


class Report(Message):
    """What a delivery brings in; `given_back` says that it goes no further, through no fault."""

    id: str
    worker: str
    setup: Setup | None = None
    samples: Samples | None = None
    size: SizeFacts | None = None
    chosen: list[int] | None = None
    given_back: bool = False


class Standing(Message):
    """False: canceled, over, or taken by another worker; stop and let go of the device."""

    run: bool


class End(Message):
    id: str
    worker: str
    error: Failure | None = None
    verdict: Verdict | None = None


class Announcement(Message):
    """A worker's machine, said again every few seconds."""

    worker: str
    name: str
    device_class: Class
    memory: float = Field(
        description="What a model may take at most [MiB]", json_schema_extra={"unit": "MiB"}
    )
    dtypes: list[str]
    attentions: list[str] = Field(
        ["eager", "sdpa", "flash_attention_2"], description="Implementations that are installed."
    )
    compiles: bool = Field(True, description="Whether torch.compile works there.")


class Heard(Message):
    pass


MEASURE = Job("job.benchmarker.measure", Measurement)
TAKE = Rpc("rpc.benchmarker.take", Take, Ticket)
REPORT = Rpc("rpc.benchmarker.report", Report, Standing)
END = Rpc("rpc.benchmarker.end", End, Heard, timeout=10.0)
ANNOUNCE = Rpc("rpc.benchmarker.announce", Announcement, Heard)
