"""Measurement of one model: `python -m benchmarker.worker.measure`, a child process.

It executes the session's steps one at a time, and waits, blocked, for the next. What nearly every
model needs of the libraries is imported before the process that loads the model is forked.
"""

import gc
from collections.abc import Callable
from typing import Any

import psutil
import torch
import transformers
import transformers.generation
import transformers.modeling_utils
import transformers.models.auto.modeling_auto

from benchmarker.memory import cache_reads, static_estimate
from benchmarker.worker import device, energy
from benchmarker.worker.counting import compiled_regions, operations, weights_read
from benchmarker.worker.device import CudaClock
from benchmarker.worker.models import LoadedModel, load
from benchmarker.worker.neighbours import Neighbours
from benchmarker.worker.process import Failed, Handle, answer_in_forks
from benchmarker.worker.timing import Cpu, Device, Steps, time_calls, warm
from models.dtypes import MIB, WIDTH_BYTES
from models.tasks import row

# Warm-up calls before a size's later blocks, since other sizes have run in between.
REWARM_CALLS = 2
# Words by which libraries report that memory ran out, each in an error class of its own: torch's
# allocators, CUDA, cuBLAS and cuDNN, the C++ library, the kernel.
OUT_OF_MEMORY_WORDS = (
    "out of memory", "not enough memory", "allocate memory", "alloc_failed", "allocation_failed",
    "bad_alloc",
)  # fmt: skip


class Bench:
    """A loaded model with its clock and its memory meter."""

    def __init__(self) -> None:
        self.loaded: LoadedModel | None = None
        self.kind = "cpu"
        self.clock: Device = Cpu()
        self.steps = Steps(self.clock)
        self.neighbours = Neighbours()
        self.compiles = False
        self.warmed: set[int] = set()
        self.prepared: tuple[int, Callable[[], Any]] | None = None

    def load(self, question: dict[str, Any]) -> dict[str, Any]:
        """Load a model, and answer with its setup.

        The question has the fields of `models.load`'s, plus `{device, maxMemoryMib, memoryShare,
        givesBack}`.

        `givesBack` asks for a process that returns freed memory at once.
        """
        if question["givesBack"]:
            device.return_freed_memory()
        self.kind = _present(question["device"])
        self.clock = CudaClock() if self.kind == "cuda" else Cpu()
        self.steps = Steps(self.clock)
        self.memory = _memory(self.kind)
        room = device.free_memory(self.kind) * question["memoryShare"]
        room = min(room, question["maxMemoryMib"] or room)
        self.memory.limit(room)
        self.loaded = loaded = load(question, self.kind, self.steps)
        width = WIDTH_BYTES[question["dtype"]]
        per_sample = static_estimate(
            loaded.config,
            row(question["task"], question["library"]),
            (loaded.tokens or 0) + (loaded.new_tokens or 0),
            width,
            eager=loaded.attention == "eager",
            weights=int(loaded.weights * MIB),
            shapes=loaded.shape,
        )
        call = loaded.prepare(1)
        call()  # the first call's setup belongs to no size
        counted = _count(call, loaded, width)
        self.compiles = question["compile"]
        gc.collect()
        gc.freeze()  # the libraries' objects stay; scanning them again takes 0.1 s
        compiled = self.compiles and compiled_regions(call) > 0
        self.memory.reset()
        # With the weights loaded; on a CPU this includes the interpreter and the libraries.
        base = psutil.Process().memory_info().rss / MIB if self.kind == "cpu" else loaded.weights
        return {
            "machine": {
                **device.machine(self.kind),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "dtype": question["dtype"],
            "attention": loaded.attention,
            "compiled": compiled,
            "parameters": loaded.parameters,
            "weights": loaded.weights,
            "base": base,
            "estimate": base + per_sample,
            "available": room if self.kind == "cuda" else base - loaded.weights + room,
            "input": loaded.shape,
            "tokens": loaded.tokens,
            "newTokens": loaded.new_tokens,
            "loadSeconds": loaded.load_seconds,
            **counted,
        }

    def ceilings(self, question: dict[str, Any]) -> dict[str, Any]:
        """Measure the ceilings of `{device, dtype}`, and answer with `figures.Ceilings`.

        This question comes before a model is loaded.
        """
        kind = _present(question["device"])
        ceilings = device.ceilings(kind, question["dtype"])
        _memory(kind).reset()
        return ceilings

    def probe(self, question: dict[str, Any]) -> dict[str, Any]:
        """Call once from a clean state; answer `{batchSize}` with the peak, a `MemoryUse`."""
        self.prepared = None
        gc.collect()  # frees reference cycles of the previous size
        self.memory.reset()
        call = self._call(question["batchSize"])
        call()
        self.clock.synchronize()
        return self.memory.peak()

    def block(self, question: dict[str, Any]) -> dict[str, Any]:
        """Time calls; answer `{round, batchSize, calls, warmup}` with `measuring.Samples`."""
        batch_size = question["batchSize"]
        call = self._call(batch_size)
        gc.collect()  # before warming, since it evicts the processor's caches
        compiled = steady = None
        if batch_size in self.warmed:
            for _ in range(REWARM_CALLS):
                call()
        else:
            _, steady = warm(call, question["warmup"], self.clock)
            self.warmed.add(batch_size)
            compiled = compiled_regions(call) > 0 if self.compiles else None
        steps = self.steps if self.loaded and self.loaded.new_tokens else None
        with energy.throttling(self.kind) as throttled:
            self.neighbours.start()
            times = time_calls(call, question["calls"], self.clock, steps=steps)
            neighbours = self.neighbours.stop()
        return {
            "round": question["round"],
            "batchSize": batch_size,
            "wall": times.wall,
            "device": times.device,
            "steps": times.steps,
            "neighbours": neighbours,
            "sharing": energy.sharing(self.kind),
            "throttled": sorted(throttled),
            "steady": steady,
            "compiled": compiled,
            "peakRss": device.peak_rss(),
        }

    def energy(self, question: dict[str, Any]) -> dict[str, Any]:
        """Measure the energy of calls; answer `{batchSize}` with `figures.EnergyUse`."""
        return energy.measure(self._call(question["batchSize"]), question["batchSize"], self.kind)

    def _call(self, batch_size: int) -> Callable[[], Any]:
        """Return the call on a batch; release the inputs of another size first."""
        assert self.loaded, "nothing is loaded"
        if self.prepared is None or self.prepared[0] != batch_size:
            self.prepared = None
            self.prepared = (batch_size, self.loaded.prepare(batch_size))
        return self.prepared[1]


def _present(kind: str) -> str:
    """Return the kind of device. Raises Failed if this machine lacks it."""
    if kind == "cuda" and not torch.cuda.is_available():
        raise Failed("this worker has no CUDA device", "device")
    return kind


def _memory(kind: str) -> device.CpuMemory | device.CudaMemory:
    return device.CudaMemory() if kind == "cuda" else device.CpuMemory()


def _count(call: Callable[[], Any], loaded: LoadedModel, width: int) -> dict[str, Any]:
    """Count the operations and bytes of a call on one input; explain each missing count."""
    computed, why_not_computed = operations(call, loaded.attention)
    weights, why_not_read = weights_read(call, loaded.config)
    cache: float | None = 0.0
    if loaded.new_tokens:
        cache = cache_reads(loaded.config, loaded.read, loaded.new_tokens, width)
    reasons = {
        "operations": computed is None and why_not_computed,
        "bytesPerCall": weights is None and why_not_read,
        "bytesPerSample": cache is None and "the size of this model's cache per token is unknown",
    }
    return {
        "operations": computed,
        "bytesPerCall": weights,
        "bytesPerSample": cache,
        "missing": {name: reason for name, reason in reasons.items() if reason},
    }


def begin() -> Handle:
    """Prepare torch, and return the handler of this process's questions."""
    torch.manual_seed(0)
    if (threads := device.threads()) < torch.get_num_threads():
        torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    bench = Bench()

    def handle(question: dict[str, Any]) -> dict[str, Any]:
        step = getattr(bench, question.pop("do"))
        answer: dict[str, Any]
        try:
            with torch.inference_mode():
                answer = step(question)
        except Exception as error:  # noqa: BLE001  (the session is told of any failure)
            bench.prepared = None
            answer = explain(error)
        return answer

    return handle


def explain(error: Exception) -> dict[str, Any]:
    """Convert an error to the answer that the session expects of a failure."""
    text = str(error).strip().partition("\n")[0] or repr(error)
    if isinstance(error, Failed):
        return {"failed": text, "reason": error.reason}
    short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if short or any(words in str(error).lower() for words in OUT_OF_MEMORY_WORDS):
        return {"outOfMemory": text}
    return {"failed": f"the model failed: {text}", "reason": "model"}


if __name__ == "__main__":
    answer_in_forks(begin)
