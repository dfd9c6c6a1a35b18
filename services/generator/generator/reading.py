"""Parser of large files, in a separate process with bounded memory and CPU time.

    python -m generator.reading

A header of a hundred thousand tensors, or a config of as many keys, takes several times its size
and seconds to parse. Another process does it, one file at a time: what it took is given back, the
service answers meanwhile, and a file that takes more than its share is refused with the model.
That refusal lasts, so it needs evidence: the process reports that the file took too much, or the
kernel ended it for its CPU time. After any other death the file is read once more by a new process.

The two speak by pipes: a line of JSON with the length of the content, then the content; the answer
is a line of JSON.
"""

import asyncio
import json
import resource
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from typing import Any, BinaryIO

import structlog
from pydantic import TypeAdapter

from common.errors import ModelRefused, Unavailable
from generator import adapting, configs, gguf, layout, pickles, setfit, weights
from generator.layout import Layout, Routes
from generator.pickles import Directory, Pickled
from generator.weights import Header, Index
from models.dtypes import MIB

log = structlog.get_logger()

# Bounds for one file: memory beyond the process's own, and CPU time. The largest files known take a
# fifth of either.
MAX_MEMORY_BYTES = 512 * MIB
MAX_CPU_S = 5
# An answer is one line: a config, reduced, or the names of 1,000 kinds of tensors.
MAX_ANSWER_BYTES = MIB
# Processes that one file is given to.
MAX_ATTEMPTS = 2
# For one attempt: longer than the CPU time, shorter than a caller waits (`snapshots`).
MAX_WAIT_S = 10.0
# For the start of the process, which imports all readers: a busy machine takes many seconds.
MAX_START_S = 60.0
# The first line of a process that has started.
READY = b"\n"
# The last answer of a process: the file, or its own answer, took more than its share.
EXCEEDED = b'{"exceeded": true}\n'

# The functions that a file may be read with, and the types that they return.
READERS: dict[str, tuple[Callable[..., Any], TypeAdapter[Any]]] = {
    "config": (configs.read, TypeAdapter(dict[str, Any])),
    "adapter": (adapting.read, TypeAdapter(dict[str, Any])),
    "layout": (layout.read, TypeAdapter(Layout)),
    "routes": (layout.read_routes, TypeAdapter(Routes)),
    "index": (weights.read_index, TypeAdapter(Index)),
    "header": (weights.read_header, TypeAdapter(Header)),
    "directory": (pickles.read_directory, TypeAdapter(Directory)),
    "pickle": (pickles.read_pickle, TypeAdapter(Pickled)),
    "series": (pickles.read_series, TypeAdapter(Pickled | None)),
    "setfit": (setfit.read_settings, TypeAdapter(setfit.Settings)),
    "head": (setfit.read_model_head, TypeAdapter(setfit.Head)),
    "gguf": (gguf.read, TypeAdapter(gguf.Header | None)),
}


class Reader:
    """The parsing process: started for the first large file, restarted after it dies."""

    def __init__(
        self,
        max_memory: int = MAX_MEMORY_BYTES,
        max_cpu: int = MAX_CPU_S,
        max_wait: float = MAX_WAIT_S,
    ) -> None:
        self.max_memory = max_memory
        self.max_cpu = max_cpu
        self.max_wait = max_wait
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def read(self, kind: str, content: bytes, **arguments: Any) -> Any:
        """Parse `content` with the function of READERS for `kind`, called with `arguments`.

        Raises:
            ModelRefused: the function does, or the file took more than its share.
            Unavailable: the process died, or did not answer in time.
        """
        # A caller that is cancelled in the queue leaves it.
        await self._turn.acquire()
        asking = asyncio.ensure_future(self._ask(kind, content, arguments))
        asking.add_done_callback(self._end_turn)
        # Shielded, since half an answer would be read for the next one.
        answer = json.loads(await asyncio.shield(asking))
        if "refused" in answer:
            raise ModelRefused(answer["refused"], **answer["details"])
        return READERS[kind][1].validate_python(answer["read"])

    def _end_turn(self, asking: asyncio.Future[bytes]) -> None:
        self._turn.release()
        if not asking.cancelled():
            asking.exception()  # retrieved in case the caller has gone

    async def _ask(self, kind: str, content: bytes, arguments: dict[str, Any]) -> bytes:
        question = {"kind": kind, "length": len(content), "arguments": arguments}
        sent = json.dumps(question).encode() + b"\n" + content
        try:
            for _ in range(MAX_ATTEMPTS):
                process = await self._started()
                async with asyncio.timeout(self.max_wait):
                    answer, code = await _attempt(process, sent)
                if answer == EXCEEDED or code == -signal.SIGXCPU:
                    await self._end()
                    raise self._too_much(kind, content)
                if code is None:
                    return answer
                log.warning("the process that reads large files died", kind=kind, code=code)
        except TimeoutError:
            await self._end()
            log.warning("the process that reads large files did not answer", kind=kind)
        raise _unavailable()

    def _too_much(self, kind: str, content: bytes) -> ModelRefused:
        log.warning("a file took more than its share", kind=kind, bytes=len(content))
        return ModelRefused(
            f"a file of the model takes more than {self.max_cpu} s or "
            f"{self.max_memory // MIB} MiB to read",
            reason="config",
        )

    async def _started(self) -> Process:
        if self._closed:
            raise _unavailable()
        if self._process is None or self._process.returncode is not None:
            command = (sys.executable, "-m", "generator.reading")
            bounds = (str(self.max_memory), str(self.max_cpu))
            self._process = process = await asyncio.create_subprocess_exec(
                *command, *bounds, stdin=PIPE, stdout=PIPE, limit=MAX_ANSWER_BYTES
            )
            assert process.stdout
            async with asyncio.timeout(MAX_START_S):
                await process.stdout.readline()  # READY, or nothing if it has died
            return process
        return self._process

    async def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._process = None

    async def close(self) -> None:
        """End the process, even while it parses a file."""
        self._closed = True
        await self._end()
        async with self._turn:
            await self._end()


async def _attempt(process: Process, sent: bytes) -> tuple[bytes, int | None]:
    """Return the answer line; if it is incomplete, also the exit status of the process."""
    assert process.stdin
    assert process.stdout
    # A process that ends before it has read all of the content may still have answered.
    with suppress(OSError):
        process.stdin.write(sent)
        await process.stdin.drain()
    answer = b""
    with suppress(OSError):
        answer = await process.stdout.readline()
    if answer.endswith(b"\n"):
        return answer, None
    # Its output has ended, so it ends by itself: a signal from here would hide its status.
    return answer, await process.wait()


def _unavailable() -> Unavailable:
    return Unavailable("large files of models cannot be read now; try again", retry_after=5)


def answer(question: dict[str, Any], content: bytes) -> bytes:
    """Parse one file; return the answer line."""
    read, adapter = READERS[question["kind"]]
    try:
        found = read(content=content, **question["arguments"])
        written = {"read": adapter.dump_python(found, mode="json")}
    except ModelRefused as error:
        written = {"refused": error.message, "details": error.details}
    # Python's own, since a config may hold integers of any size.
    return json.dumps(written).encode() + b"\n"


def serve(questions: BinaryIO, answers: BinaryIO, max_memory: int, max_cpu: int) -> None:
    """Answer requests until the input ends, or one exceeds its memory or CPU time."""
    bound(resource.RLIMIT_AS, _address_space() + max_memory)
    answers.write(READY)
    answers.flush()
    while line := questions.readline():
        question = json.loads(line)
        used = resource.getrusage(resource.RUSAGE_SELF)
        # At the soft limit the kernel ends the process, in the middle of a parser too.
        bound(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + max_cpu)
        try:
            answered = answer(question, questions.read(question["length"]))
        except MemoryError:
            answered = EXCEEDED
        if len(answered) > MAX_ANSWER_BYTES:
            answered = EXCEEDED
        answers.write(answered)
        answers.flush()
        if answered == EXCEEDED:
            return  # the rest of the content may still be in the pipe


def bound(limit: int, value: int) -> None:
    """Set the soft limit of a resource, to at most its hard limit."""
    _, hard = resource.getrlimit(limit)
    resource.setrlimit(limit, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (no file of a disk)
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    # Interrupts are for the service, which ends this process by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    memory, cpu = map(int, sys.argv[1:])
    serve(sys.stdin.buffer, sys.stdout.buffer, memory, cpu)
