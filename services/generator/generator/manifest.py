"""`module.yaml`: everything about a module that varies from one to the next.

The other files are constant, or are made from this one. Its fields are ours,
versioned by `schema`; the network reads only `lilypad_module.json.tmpl`. Every
field's type is narrow enough that no value can mean something else elsewhere.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from common.contracts.figures import Dtype
from common.contracts.generation import Measured
from generator import images
from generator.gguf_files import ENDING
from generator.licenses import license_of
from generator.resources import Resources
from generator.settings import Endpoint
from generator.snapshot import Snapshot
from models.families import FAMILIES, stack_of
from models.packing import Packing
from models.tasks import Parameter, Task
from models.tasks.llama import LIBRARY

VERSION = "0.1.0"
SLUG = r"^[a-z0-9][a-z0-9-]{0,62}$"

Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]{0,192}$")]
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
# Names in folders; none begins with a dot, so none leads out of the model's own.
Path = Annotated[
    str,
    StringConstraints(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,127}){0,3}$"
    ),
]
License = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.+-]{0,63}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")]


class Part(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        protected_namespaces=(),
    )


class ModelFile(Part):
    """A file of the model, with the `sha256` of its content, or its git id as `blob`.

    `becomes` is the file that pickled weights are converted to when the image is built.
    """

    path: Path
    size: Annotated[int, Field(ge=0)]
    sha256: Hex | None = None
    blob: Hex | None = None
    becomes: Path | None = None


class Source(Part):
    """A repository at one commit, and those of its files that the module has."""

    id: Id
    commit: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{40}$")]
    files: list[ModelFile]


class Base(Source):
    """The base model of an adapter; its licence applies as well."""

    license: License | None = None


class Model(Source):
    """The model; for an adapter, `base` is the model it adapts."""

    base: Base | None = None
    task: str
    library: str
    license: License | None = None
    parameters: int
    weight_bytes: int


class Run(Part):
    """Settings of a run. `dtype` applies on a GPU; a CPU computes in float32.

    `torchIndex` is the index of Python packages that has torch without CUDA, for an image without.
    `class` is the library's class that loads the model, and `processor` the one that prepares its
    inputs, where no pipeline of the library finds them. `packing` is the kind of packed weights.
    `file` is the GGUF file that llama.cpp loads, or the first of its parts, or the ONNX file that
    onnxruntime loads; `chat` is whether a GGUF file has a chat template. llama.cpp computes with
    the weights as they are stored. `batchTokens` are the tokens that it reads at once where it
    computes vectors.
    """

    family: str
    stack: str
    class_: str | None = Field(None, alias="class")
    processor: str | None = None
    packing: Packing | None = None
    file: Path | None = None
    chat: bool | None = None
    batch_tokens: int | None = None
    batch_size: int
    max_tokens: int
    dtype: Dtype
    attention: Literal["sdpa", "eager"]
    compile: bool
    base_image: Annotated[
        str,
        StringConstraints(
            pattern=r"^[a-z0-9][a-z0-9./_-]*:[A-Za-z0-9._-]+(?:@sha256:[0-9a-f]{64})?$"
        ),
    ]
    torch_index: Endpoint | None = None


class Needs(Part):
    """Required resources: sizes in MiB, times in seconds, `cpu` in cores."""

    cpu: int
    memory_mib: int = Field(alias="memoryMiB")
    gpu: int
    vram_mib: int = Field(alias="vramMiB")
    vram_source: str
    disk_mib: int = Field(alias="diskMiB")
    timeout: int
    execution_timeout: int
    sources: dict[str, str]
    measured: Measured | None = None


class ScalarInput(Part):
    """One input of the network's command line, and the variable that carries it."""

    name: Name
    env: Name
    type: Literal["string", "integer", "number", "boolean"]
    required: bool = False
    description: str
    default: str | int | float | bool | None = None
    minimum: int | float | None = None
    maximum: int | float | None = None


class Output(Part):
    name: Name
    type: Literal["file"] = "file"
    path: str
    fields: dict[str, str]
    description: str


class Manifest(Part):
    schema_: Literal["lilypad-module/1"] = Field("lilypad-module/1", alias="schema")
    generator: str = VERSION
    name: Annotated[str, StringConstraints(pattern=SLUG)]
    version: str = "1.0.0"
    description: str
    model: Model
    run: Run
    resources: Needs
    inputs: list[ScalarInput]
    outputs: list[Output]

    @property
    def converts(self) -> bool:
        """Whether weights are converted when the image is built."""
        return any(file.becomes for file in self.model.files)

    def to_data(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_none=True)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.to_data(), sort_keys=False, width=100)


def describe(
    snapshot: Snapshot,
    task: Task,
    needs: Resources,
    digests: Mapping[str, str] | None = None,
) -> Manifest:
    """Build the manifest of a module; `digests` maps base images to their digests."""
    assert snapshot.weights
    packing = snapshot.config.get("packing", {}).get("kind")
    own = snapshot.adapter or snapshot
    by_class = packing or FAMILIES[task.family].named
    return Manifest(
        name=slug(own.id),
        description=f"{task.tag} with {own.id}",
        model=Model(
            id=own.id,
            commit=own.commit,
            files=files_of(own),
            base=Base(
                id=snapshot.id,
                commit=snapshot.commit,
                files=files_of(snapshot),
                license=license_of(snapshot),
            )
            if snapshot.adapter
            else None,
            task=task.tag,
            library=task.library,
            license=license_of(own),
            parameters=snapshot.weights.parameters,
            weight_bytes=snapshot.weights.bytes,
        ),
        run=Run(
            family=task.family,
            stack=stack_of(task),
            class_=task.auto_classes[0] if by_class else None,
            processor=task.processor,
            packing=packing,
            file=(snapshot.config.get("gguf") or snapshot.config.get("onnx") or {}).get("file"),
            chat=snapshot.config.get("gguf", {}).get("chat"),
            batch_tokens=needs.batch_tokens,
            batch_size=needs.batch_size,
            max_tokens=needs.max_tokens,
            dtype=needs.dtype,
            attention=needs.attention,
            compile=needs.compile,
            base_image=images.pin(
                # llama.cpp's library needs that of OpenMP, which comes with a compiler.
                images.choose(gpu=needs.gpu, compiled=needs.compile or task.library == LIBRARY),
                digests,
            ),
            torch_index=needs.torch_index,
        ),
        resources=Needs(
            cpu=needs.cpu,
            memory_mib=needs.memory,
            gpu=int(needs.gpu),
            vram_mib=needs.vram,
            vram_source=needs.vram_source,
            disk_mib=needs.disk,
            sources=needs.sources,
            timeout=needs.timeout,
            execution_timeout=needs.execution_timeout,
            measured=needs.measured,
        ),
        inputs=[
            _scalar(parameter, needs.max_tokens, required=parameter.name in task.required)
            for parameter in task.inputs
        ],
        outputs=[
            Output(
                name="result",
                path="/outputs/result.json",
                fields=dict(task.returns.fields),
                description=f"status, outputs, timings, model. {task.returns}",
            )
        ],
    )


def files_of(snapshot: Snapshot) -> list[ModelFile]:
    return [
        ModelFile(
            path=file.path,
            size=file.size,
            sha256=file.sha256,
            blob=file.blob,
            becomes=file.becomes,
        )
        for file in snapshot.files
    ]


def _scalar(parameter: Parameter, max_tokens: int, *, required: bool) -> ScalarInput:
    if parameter.name == "max_new_tokens":  # the input needs room as well
        parameter = replace(
            parameter, default=min(parameter.default, max_tokens // 2), maximum=max_tokens - 1
        )
    return ScalarInput(
        name=parameter.name,
        env=f"INPUT_{parameter.name.upper()}",
        type=parameter.type,
        required=required,
        description=parameter.description,
        default=parameter.default,
        minimum=parameter.minimum,
        maximum=parameter.maximum,
    )


def slug(id: str) -> str:
    """Return a name for a folder, an image and an archive: lower case, digits, hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", id.lower()).strip("-")[:63].rstrip("-") or "model"


def variant(file: str | None) -> str:
    """Return a name that distinguishes the GGUF files of a model; "" without one."""
    # The end of a long name says the packing.
    return slug(file.removesuffix(ENDING)[-40:]) if file else ""


def schema() -> str:
    """Return the JSON schema of module.yaml: docs/reference/module.schema.json."""
    return json.dumps(Manifest.model_json_schema(), indent=2) + "\n"


if __name__ == "__main__":
    print(schema(), end="")  # noqa: T201  (the schema is this command's answer)
