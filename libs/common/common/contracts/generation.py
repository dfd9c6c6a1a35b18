"""Generation of a model's module, as files or as an archive."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from common.contracts import Input, Message, Rpc
from common.contracts.address import AddressText
from common.contracts.figures import Device, Dtype
from common.faults import Hint


def _without_blank(memory: str) -> str:
    return memory.replace(" ", "")


Memory = Annotated[
    str,
    StringConstraints(pattern=r"^[1-9][0-9]{0,5} ?(MB|Mi|MiB|GB|Gi|GiB)$"),
    AfterValidator(_without_blank),
    Hint('must be a whole number with a unit (MB, MiB, GB or GiB), such as "8GB" or "512MiB"'),
]


class GenerateOptions(Input):
    """Options that override values derived from the model; all are optional."""

    batch_size: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Inputs the module runs through the model at once."
    )
    memory: Memory | None = Field(
        None, description="Main memory of the container.", examples=["8GB", "16Gi"]
    )
    gpu: bool | None = Field(None, description="Whether the module asks for a GPU.")
    optimization_level: Literal["none", "basic", "full"] | None = Field(
        None,
        description=(
            "none: float32 and the reference attention; basic: half precision on a GPU and "
            "scaled-dot-product attention; full: basic and torch.compile."
        ),
    )
    file: (
        Annotated[
            str,
            StringConstraints(min_length=1, max_length=512, pattern=r"^[A-Za-z0-9._/-]+$"),
            Hint("must be a path of 1 to 512 ASCII letters, digits, `.`, `_`, `-` and `/`"),
        ]
        | None
    ) = Field(
        None,
        description="The GGUF file to run, by its path in the repository; of a model in several "
        "parts, the first. Omitted: weights in safetensors, or else the file by the rule of the "
        "reference.",
        examples=["model-Q8_0.gguf"],
    )


# Reasons for refusal that a caller may override; never one that would run foreign code.
Accepted = Literal["license", "too-large"]


class GenerateRequest(Input):
    model_url: AddressText = Field(
        description="https://huggingface.co/<owner>/<name>, also with /tree/<revision>, or the id.",
        examples=["https://huggingface.co/distilbert/distilbert-base-uncased"],
    )
    options: GenerateOptions = Field(
        GenerateOptions(),
        description="Your options; omitted ones are derived from the model.",
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None,
        description="Branch, tag or commit; defaults to the address's own, or else main.",
        examples=["main"],
    )
    accept: Annotated[list[Accepted], Field(max_length=2)] = Field(
        [],
        examples=[["license"]],
        description="Reasons (`details.reason`) for which the model shall not be refused:"
        " `license`, it forbids commercial use; `too-large`, for what a provider offers.",
    )
    verify: bool = Field(
        False,
        description="Whether a worker runs the module first. It takes a while: use v2, or send"
        " `Prefer: respond-async` or `Prefer: wait=<seconds>`.",
    )


class Check(Message):
    """A check of the module's files before they were returned, and its outcome."""

    name: str = Field(description="Name of the check.")
    outcome: Literal["passed", "warning", "failed"] = Field(description="Its outcome.")
    message: str = Field("", description="Finding of the check, in one sentence.")


class Validation(Message):
    status: Literal["passed", "warnings", "failed"] = Field(
        description="The worst outcome of all checks."
    )
    errors: list[str] = Field(description="Problems to act on, one sentence each.")
    checks: list[Check] = Field([], description="Every check and its outcome.")


class Measured(Message):
    """The benchmark run that memory and batch size come from, and what it measured."""

    run: str = Field(pattern=r"^[a-z]+_[0-9a-f]{8,64}$", description="Id of the benchmark run.")
    at: datetime = Field(description="Time of the measurement.")
    device: Device = Field(description="Kind of device.")
    machine: str = Field(
        pattern=r"^[A-Za-z0-9 ().@_/+-]{1,80}$", description="Name of the CPU or GPU."
    )
    dtype: Dtype = Field(description="Data type of the weights.")
    batch_size: Annotated[int, Field(ge=1)] = Field(description="The optimal batch size.")
    tokens: int | None = Field(None, description="Tokens per sequence, including those generated.")
    peak_mib: float = Field(
        alias="peakMiB", description="Peak memory at that batch size and length."
    )


# Audience of the model: anybody, or only the holders of the operator's or the account's own token.
ReadBy = Literal["anybody", "operator", "account"]


class ModelFacts(Message):
    """Facts about the model at the commit that was read, and the resources it needs.

    `vram_mib` is in MiB; `vram_source` says where the figure came from.
    """

    id: str = Field(description="The model's id on the Hub.")
    commit: str = Field(description="The pinned commit, 40 hexadecimal digits.")
    task: str = Field(description="The model's task, a pipeline tag of the Hub.")
    library: str = Field(description="The library that runs it.")
    license: str | None = Field(description="License by the model card; null if it names none.")
    parameters: int | None = Field(description="Number of parameters; null if unknown.")
    weight_bytes: int = Field(description="Size of the weight files in bytes.")
    vram_mib: int = Field(
        alias="vramMiB", description="GPU memory the model needs in MiB; 0 without a GPU."
    )
    vram_source: Literal["headers", "measured", "requested"] = Field(
        description="Source of that figure."
    )
    max_tokens: int | None = Field(
        None,
        description="Longest text that the model reads, in tokens, those generated included; null"
        " if its configuration names no limit.",
    )
    measured: Measured | None = Field(
        None, description="The benchmark behind the figures; null without one."
    )
    measurement: str | None = Field(
        None,
        description="Whether memory and batch size follow from a benchmark, or why not, in one"
        " sentence; null for modules that cannot be benchmarked.",
    )
    read_by: ReadBy = Field(
        "anybody",
        description="Audience of the model: `anybody`; `operator`, it is private or gated and"
        " the operator opens it to every account; `account`, it was read with your Hub token.",
    )


class Module(Message):
    files: dict[str, str] = Field(description="Content of each file by name.")
    validation: Validation = Field(description="The checks of the files, and their outcomes.")
    model: ModelFacts = Field(description="The model as it was read.")
    digest: str | None = Field(
        None, description="SHA-256 of the module as `/download` sends it, the `ETag` there."
    )


class Package(Message):
    """The module's files as one zip; the same commit and options give the same bytes."""

    filename: str
    sha256: str
    content: bytes
    model: ModelFacts | None = None


# A cold generation reads the Hub, which has 15 s in all to answer.
GENERATE = Rpc("rpc.generator.generate", GenerateRequest, Module, timeout=18.0, repeatable=True)
PACKAGE = Rpc("rpc.generator.package", GenerateRequest, Package, timeout=18.0, repeatable=True)
