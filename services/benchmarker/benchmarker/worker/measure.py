"""Times one model: `python -m benchmarker.worker.measure`, a child process.

It does what it is told, a step at a time; which steps, and in which order, is
the session's business. Between two steps it waits for the next.
"""

import gc
from collections.abc import Callable
from typing import Any

import psutil
import torch
import transformers

from benchmarker.memory import cache_reads, static_estimate
from benchmarker.worker import device, energy
from benchmarker.worker.child import Failed, answer_questions
from benchmarker.worker.counting import compiled_regions, operations, weights_read
from benchmarker.worker.device import MIB, Cuda
from benchmarker.worker.models import Loaded, load
from benchmarker.worker.neighbours import Neighbours
from benchmarker.worker.timing import Cpu, Device, Steps, time_calls, warm

# Calls before the blocks that follow a size's first one: other sizes were at work meanwhile.
REWARM = 2
# What libraries say, each in an error class of its own: torch's allocators, CUDA, cuBLAS and cuDNN,
# the C++ library, the kernel.
SHORT_OF_MEMORY = (
    "out of memory", "not enough memory", "allocate memory", "alloc_failed", "allocation_failed",
    "bad_alloc",
)  # fmt: skip


class Bench:
    """A model and the means to time it."""

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self.kind = "cpu"
        self.clock: Device = Cpu()
        self.steps = Steps(self.clock)
        self.neighbours = Neighbours()
        self.compiles = False
        self.warmed: set[int] = set()
        self.prepared: tuple[int, Callable[[], Any]] | None = None

    def describe(self, question: dict[str, Any]) -> dict[str, Any]:
        """`{mostMemory, memoryShare, device?}` to `measuring.Announcement`, but for its name."""
        return device.describe(
            question["memoryShare"], question["mostMemory"], question.get("device")
        )

    def load(self, question: dict[str, Any]) -> dict[str, Any]:
        """`models.load`'s question, and `{device, mostMemory, memoryShare}`, to `figures.Setup`."""
        self.kind = _present(question["device"])
        self.clock = Cuda() if self.kind == "cuda" else Cpu()
        self.steps = Steps(self.clock)
        self.memory = _memory(self.kind)
        room = device.free_memory(self.kind) * question["memoryShare"]
        room = min(room, question["mostMemory"] or room)
        self.memory.limit(room)
        self.loaded = loaded = load(question, self.kind, self.steps)
        item = torch.finfo(device.DTYPES[question["dtype"]]).bits // 8
        per_sample = static_estimate(
            loaded.config,
            loaded.tokens,
            loaded.new_tokens,
            item,
            eager=loaded.attention == "eager",
            shapes=loaded.shape,
        )
        call = loaded.prepare(1)
        call()  # what is set up at the first call is no size's own
        counted = _count(call, loaded, item)
        self.compiles = question["compile"]
        gc.collect()
        gc.freeze()  # the libraries' objects stay; looking through them again takes 0.1 s
        compiled = self.compiles and compiled_regions(call) > 0
        self.memory.reset()
        # At rest, the weights in place: on a CPU it is the interpreter and the libraries as well.
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
        """`{device, dtype}` to `figures.Ceilings`; asked before a model is there."""
        kind = _present(question["device"])
        found = device.ceilings(kind, question["dtype"])
        _memory(kind).reset()
        return found

    def probe(self, question: dict[str, Any]) -> dict[str, Any]:
        """`{batchSize}` to `figures.MemoryUse`: the peak of one call from a clean state."""
        self.prepared = None
        gc.collect()  # what the last size has left in reference cycles is none of this one's
        self.memory.reset()
        call = self._call(question["batchSize"])
        call()
        self.clock.synchronize()
        return self.memory.peak()

    def block(self, question: dict[str, Any]) -> dict[str, Any]:
        """`{round, batchSize, calls, warmup}` to `measuring.Samples`."""
        batch_size = question["batchSize"]
        call = self._call(batch_size)
        gc.collect()  # before warming: it empties the caches of the processor
        compiled = steady = None
        if batch_size in self.warmed:
            for _ in range(REWARM):
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
        """`{batchSize}` to `figures.EnergyUse`."""
        return energy.measure(self._call(question["batchSize"]), question["batchSize"], self.kind)

    def _call(self, batch_size: int) -> Callable[[], Any]:
        """The call on one batch; inputs of another size are let go of first."""
        assert self.loaded, "nothing is loaded"
        if self.prepared is None or self.prepared[0] != batch_size:
            self.prepared = None
            self.prepared = (batch_size, self.loaded.prepare(batch_size))
        return self.prepared[1]


def _present(kind: str) -> str:
    """The device, where there is one. Raises Failed."""
    if kind == "cuda" and not torch.cuda.is_available():
        raise Failed("this worker has no CUDA device", "device")
    return kind


def _memory(kind: str) -> device.CpuMemory | device.CudaMemory:
    return device.CudaMemory() if kind == "cuda" else device.CpuMemory()


def _count(call: Callable[[], Any], loaded: Loaded, item: int) -> dict[str, Any]:
    """What a call on one input computes and reads, and why where that is not known."""
    computed, why_not_computed = operations(call, loaded.attention)
    weights, why_not_read = weights_read(call, loaded.config)
    cache: float | None = 0.0
    if loaded.new_tokens:
        cache = cache_reads(loaded.config, loaded.read, loaded.new_tokens, item)
    reasons = {
        "operations": computed is None and why_not_computed,
        "bytesPerCall": weights is None and why_not_read,
        "bytesPerSample": cache is None and "what this model keeps for each token is not known",
    }
    return {
        "operations": computed,
        "bytesPerCall": weights,
        "bytesPerSample": cache,
        "missing": {name: reason for name, reason in reasons.items() if reason},
    }


def main() -> None:
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
        except Exception as error:  # noqa: BLE001  (whatever a model does, the session hears of it)
            bench.prepared = None
            answer = explain(error)
        return answer

    answer_questions(handle)


def explain(error: Exception) -> dict[str, Any]:
    """What went wrong, as the session tells it apart."""
    text = str(error).strip().partition("\n")[0] or repr(error)
    if isinstance(error, Failed):
        return {"failed": text, "reason": error.reason}
    short = isinstance(error, (torch.OutOfMemoryError, MemoryError))
    if short or any(words in str(error).lower() for words in SHORT_OF_MEMORY):
        return {"outOfMemory": text}
    return {"failed": f"the model failed: {text}", "reason": "model"}


if __name__ == "__main__":
    main()
