"""What is refused before it is queued, so that it neither waits nor counts."""

from benchmarker.tasks import TASKS, is_measured
from common.contracts.benchmarking import BenchmarkRequest
from common.contracts.generation import ModelFacts
from common.contracts.measuring import Announcement, Class
from common.errors import BenchmarkFailed

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
# What the kernels of flash-attn take.
HALVES = ("float16", "bfloat16")
MIB = 2**20


def class_for(
    request: BenchmarkRequest, model: ModelFacts, workers: list[Announcement], deployed: set[Class]
) -> Class:
    """The class of worker that can run this.

    Args:
        request: what is asked for.
        model: what the Hub says of it.
        workers: that are there now.
        deployed: classes that exist even while none of their workers is up.

    Raises:
        BenchmarkFailed: none can; `details.reason` is `task`, `device`, `dtype`, `attention`,
            `compile` or `memory`.
    """
    if not is_measured(model.task, model.library):
        of_another = f"models for {model.task} are measured of another library than this one's"
        others = "models of this task are not measured; these are: " + ", ".join(sorted(TASKS))
        raise BenchmarkFailed(
            of_another if model.task in TASKS else others, status=422, reason="task"
        )
    there = {worker.device_class for worker in workers} | deployed
    wanted = _wanted(request, there)
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
            "each of what is asked for is there, but no worker has all of it; leave some of"
            " `dtype`, `attention` and `compile` out",
            status=422,
            reason="device",
        )
    return wanted


def suits(machine: Announcement, request: BenchmarkRequest, weights: float) -> bool:
    """Whether this one machine has all that a run asks for; `weights` in MiB."""
    return (
        (request.dtype is None or request.dtype in machine.dtypes)
        and (request.attention is None or request.attention in machine.attentions)
        and (machine.compiles or not request.compile)
        and weights <= machine.memory
    )


def _wanted(request: BenchmarkRequest, there: set[Class]) -> Class:
    wanted: Class = "gpu" if request.device == "cuda" else "cpu"
    if request.device == "auto":
        return "gpu" if "gpu" in there else "cpu"
    if wanted not in there:
        raise BenchmarkFailed(
            f"there is no worker with the device {request.device}; leave `device` out to take"
            " what there is",
            status=422,
            reason="device",
        )
    return wanted


def _check_dtype(request: BenchmarkRequest, machines: list[Announcement]) -> None:
    able = {dtype for machine in machines for dtype in machine.dtypes}
    if request.dtype and machines and request.dtype not in able:
        raise BenchmarkFailed(
            f"the device cannot compute in {request.dtype}; it can in {', '.join(sorted(able))}",
            status=422,
            reason="dtype",
        )


def _check_attention(
    request: BenchmarkRequest, model: ModelFacts, machines: list[Announcement], wanted: Class
) -> None:
    if request.attention and TASKS[model.task].takes == "pipeline":
        raise BenchmarkFailed(
            "the attention of a pipeline of diffusers cannot be chosen; leave `attention` out",
            status=422,
            reason="attention",
        )
    installed = {attention for machine in machines for attention in machine.attentions}
    if request.attention and machines and request.attention not in installed:
        raise BenchmarkFailed(
            f"{request.attention} is not installed where the run would go;"
            f" {', '.join(sorted(installed))} are",
            status=422,
            reason="attention",
        )
    if request.attention == "flash_attention_2" and dtype_of(request, wanted) not in HALVES:
        raise BenchmarkFailed(
            f"flash_attention_2 computes in {' and '.join(HALVES)} alone, and this run would be in"
            f" {dtype_of(request, wanted)}",
            status=422,
            reason="dtype",
        )


def _check_memory(
    request: BenchmarkRequest, model: ModelFacts, machines: list[Announcement]
) -> None:
    if machines:
        check_room(model, machines, dtype_of(request, machines[0].device_class))


def weights_of(model: ModelFacts, dtype: str) -> float:
    """MiB, once they are loaded."""
    return (model.parameters * BYTES[dtype] if model.parameters else model.weight_bytes) / MIB


def dtype_of(request: BenchmarkRequest, wanted: Class) -> str:
    """What the run would be in, of a worker of that class."""
    return request.dtype or ("bfloat16" if wanted == "gpu" else "float32")


def check_room(model: ModelFacts, machines: list[Announcement], dtype: str) -> None:
    """Raises BenchmarkFailed for weights that no machine there is has room for."""
    if not machines:
        return  # the worker that is started for it will say
    largest = max(machine.memory for machine in machines)
    weights = weights_of(model, dtype)
    if weights > largest:
        raise BenchmarkFailed(
            f"the weights alone take {weights:,.0f} MiB in {dtype}, and a model may take"
            f" {largest:,.0f} MiB on the largest machine",
            status=422,
            reason="memory",
            limit=int(largest),
        )
