"""What the generator answers: a model's module, as files or as an archive."""

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from common.contracts import Input, Message, Rpc

Memory = Annotated[str, StringConstraints(pattern=r"^[1-9][0-9]{0,5}(MB|Mi|MiB|GB|Gi|GiB)$")]


class GenerateOptions(Input):
    """What the caller wants otherwise than the model itself suggests; all may be left out."""

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


# What a model is refused for unless the caller answers for it; never for whose code would run.
Accepted = Literal["license", "too-large"]


class GenerateRequest(Input):
    model_url: Annotated[str, StringConstraints(min_length=1, max_length=512)] = Field(
        description="https://huggingface.co/<owner>/<name>, also with /tree/<revision>, or the id.",
        examples=["https://huggingface.co/distilbert/distilbert-base-uncased"],
    )
    options: GenerateOptions = GenerateOptions()
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        None, description="Branch, tag or commit; the address's own, else main, when left out."
    )
    accept: Annotated[list[Accepted], Field(max_length=2)] = Field(
        [],
        description="Reasons (`details.reason`) for which the model is not to be refused:"
        " `license`, it forbids commercial use; `too-large`, for what a provider offers.",
    )
    verify: bool = Field(
        False,
        description="Whether a worker runs the module first. It takes a while: ask v2, or send"
        " `Prefer: respond-async` or `Prefer: wait=<seconds>`.",
    )


class Check(Message):
    """One thing that was looked at before the files were handed out."""

    name: str
    outcome: Literal["passed", "warning", "failed"]
    message: str = ""


class Validation(Message):
    status: Literal["passed", "warnings", "failed"]
    errors: list[str] = Field(description="What a person should act on, one sentence each.")
    checks: list[Check] = []


class Measured(Message):
    """The benchmark run that memory and batch size come from, and what it measured."""

    run: str = Field(pattern=r"^[a-z]+_[0-9a-f]{8,64}$")
    at: datetime
    device: Literal["cpu", "cuda"]
    machine: str = Field(pattern=r"^[A-Za-z0-9 ().@_/+-]{1,80}$")
    dtype: Literal["float32", "float16", "bfloat16"]
    batch_size: Annotated[int, Field(ge=1)]
    tokens: int | None = Field(None, description="Of each sequence, those generated included.")
    peak_mib: float = Field(alias="peakMiB", description="At that batch size and length.")


class ModelFacts(Message):
    """The model as it was when it was read, and what it needs.

    `vram_mib` is in MiB; `vram_source` says where the figure came from.
    """

    id: str
    commit: str = Field(description="The pinned commit, 40 hexadecimal digits.")
    task: str
    library: str
    license: str | None
    parameters: int | None
    weight_bytes: int
    vram_mib: int = Field(alias="vramMiB")
    vram_source: Literal["headers", "measured", "requested"]
    measured: Measured | None = None


class Module(Message):
    files: dict[str, str]
    validation: Validation
    model: ModelFacts


class Package(Message):
    """The same files as one zip, byte for byte the same for the same commit and options."""

    filename: str
    sha256: str
    content: bytes


# A cold generation reads the Hub, which has 15 s in all to answer.
GENERATE = Rpc("rpc.generator.generate", GenerateRequest, Module, timeout=18.0)
PACKAGE = Rpc("rpc.generator.package", GenerateRequest, Package, timeout=18.0)
