"""Refusals of runs that would fail, before they are queued or counted."""

import yaml

from common.contracts.benchmarking import BenchmarkRequest
from common.contracts.generation import ModelFacts
from common.contracts.measuring import Announcement, Class
from common.errors import BenchmarkFailed
from models.dtypes import DEFAULT_DTYPE, HALF, MIB, WIDTH_BYTES
from models.tasks import ROWS, is_measured, row

# Packages of modules of quantized models, adapters and ONNX files; workers load none on their own.
UNMEASURED = ("bitsandbytes==", "onnxruntime==", "peft==")


def check_packages(requirements: str) -> None:
    """Raise BenchmarkFailed for a quantized model, an adapter or an ONNX file, by the packages."""
    if any(line.startswith(UNMEASURED) for line in requirements.splitlines()):
        raise BenchmarkFailed(
            "quantized models, adapters and ONNX files are not measured; measure the model that"
            " this one was made from",
            status=422,
            reason="task",
        )


def check_weights(manifest: str) -> None:
    """Raise BenchmarkFailed for pickled weights, which only an image's build converts."""
    if any("becomes" in file for file in yaml.safe_load(manifest)["model"]["files"]):
        raise BenchmarkFailed(
            "models with pickled weights only are not measured; measure a revision with safetensors"
            " weights",
            status=422,
            reason="task",
        )


def class_for(
    request: BenchmarkRequest, model: ModelFacts, workers: list[Announcement], deployed: set[Class]
) -> Class:
    """Return the class of worker that supports the run.

    Args:
        request: the caller's.
        model: the generator's facts about it.
        workers: that are present now.
        deployed: classes of workers that are started on demand.

    Raises:
        BenchmarkFailed: no worker can; `details.reason` is `task`, `device`, `dtype`, `attention`,
            `compile`, `memory` or `tokens`.
    """
    if not is_measured(model.task, model.library):
        measured = {row.tag for row in ROWS if row.measured}
        of_another = f"models for {model.task} are measured, but not those of {model.library}"
        others = (
            f"models for {model.task} are not measured; measured tasks:"
            f" {', '.join(sorted(measured))}"
        )
        raise BenchmarkFailed(
            of_another if model.task in measured else others, status=422, reason="task"
        )
    _check_tokens(request, model)
    there = {worker.device_class for worker in workers} | deployed
    wanted = wanted_class(request.device, there)
    machines = [worker for worker in workers if worker.device_class == wanted]
    _check_dtype(request, machines)
    _check_attention(request, model, machines, wanted)
    if request.compile and machines and not any(machine.compiles for machine in machines):
        raise BenchmarkFailed(
            "torch.compile needs a C++ compiler, and no worker has one; leave `compile` out",
            status=422,
            reason="compile",
        )
    _check_memory(request, model, machines)
    weights = weights_of(model, dtype_of(request, wanted))
    if machines and not any(suits(machine, request, weights) for machine in machines):
        raise BenchmarkFailed(
            "no single worker supports this combination of `dtype`, `attention` and `compile`;"
            " leave one of them out",
            status=422,
            reason="device",
        )
    return wanted


def suits(machine: Announcement, request: BenchmarkRequest, weights: float) -> bool:
    """Return whether a machine supports all options of a run; `weights` are in MiB."""
    return (
        (request.dtype is None or request.dtype in machine.dtypes)
        and (request.attention is None or request.attention in machine.attentions)
        and (machine.compiles or not request.compile)
        and weights <= machine.memory
    )


def wanted_class(device: str, there: set[Class]) -> Class:
    """Return the class of worker for a request's `device`; raise if no worker has it."""
    wanted: Class = "gpu" if device == "cuda" else "cpu"
    if device == "auto":
        return "gpu" if "gpu" in there else "cpu"
    if wanted not in there:
        raise BenchmarkFailed(
            f"`device`: no worker has {device}; leave `device` out to use any worker",
            status=422,
            reason="device",
        )
    return wanted


def _check_tokens(request: BenchmarkRequest, model: ModelFacts) -> None:
    """Raise BenchmarkFailed for inputs longer than the model reads."""
    input_tokens = request.input_tokens or 1
    new = request.new_tokens if row(model.task, model.library).generates else 0
    if model.max_tokens and input_tokens + new > model.max_tokens:
        raise BenchmarkFailed(
            f"`inputTokens`: the model reads at most {model.max_tokens} tokens, new ones included;"
            f" got {input_tokens} + {new}",
            status=422,
            reason="tokens",
            limit=model.max_tokens,
        )


def _check_dtype(request: BenchmarkRequest, machines: list[Announcement]) -> None:
    able = {dtype for machine in machines for dtype in machine.dtypes}
    if request.dtype and machines and request.dtype not in able:
        raise BenchmarkFailed(
            f"`dtype`: no worker of this device computes in {request.dtype}; available:"
            f" {', '.join(sorted(able))}",
            status=422,
            reason="dtype",
        )


def _check_attention(
    request: BenchmarkRequest, model: ModelFacts, machines: list[Announcement], wanted: Class
) -> None:
    if request.attention and model.library == "diffusers":
        raise BenchmarkFailed(
            "`attention` cannot be chosen for diffusers pipelines; leave it out",
            status=422,
            reason="attention",
        )
    installed = {attention for machine in machines for attention in machine.attentions}
    if request.attention and machines and request.attention not in installed:
        raise BenchmarkFailed(
            f"`attention`: {request.attention} is not installed on the workers; available:"
            f" {', '.join(sorted(installed))}",
            status=422,
            reason="attention",
        )
    if request.attention == "flash_attention_2" and dtype_of(request, wanted) not in HALF:
        raise BenchmarkFailed(
            f"`attention`: flash_attention_2 needs `dtype` {' or '.join(sorted(HALF))}; this run's"
            f" is {dtype_of(request, wanted)}",
            status=422,
            reason="dtype",
        )


def _check_memory(
    request: BenchmarkRequest, model: ModelFacts, machines: list[Announcement]
) -> None:
    if machines:
        check_room(model, machines, dtype_of(request, machines[0].device_class))


def weights_of(model: ModelFacts, dtype: str) -> float:
    """Return the MiB of the loaded weights."""
    return (model.parameters * WIDTH_BYTES[dtype] if model.parameters else model.weight_bytes) / MIB


def dtype_of(request: BenchmarkRequest, wanted: Class) -> str:
    """Return the requested dtype, or the default of the class of worker."""
    return request.dtype or DEFAULT_DTYPE[wanted]


def check_room(model: ModelFacts, machines: list[Announcement], dtype: str) -> None:
    """Raise BenchmarkFailed if the weights fit no machine that is present."""
    if not machines:
        return  # a worker that is started on demand checks it
    largest = max(machine.memory for machine in machines)
    weights = weights_of(model, dtype)
    if weights > largest:
        raise BenchmarkFailed(
            f"the weights alone take {weights:,.0f} MiB in {dtype}; the largest worker has"
            f" {largest:,.0f} MiB for a model",
            status=422,
            reason="memory",
            limit=int(largest),
        )
