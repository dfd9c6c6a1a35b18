"""Parses large files of repositories in a process of its own, bounded in memory and CPU time.

    python -m generator.reading

A header of a hundred thousand tensors, or a config of as many keys, takes several times its size
and seconds to parse. Another process does it, one file at a time: what it took is given back, the
service answers meanwhile, and a file that takes more than its share is refused with the model.

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
from typing import Any, BinaryIO

import structlog
from pydantic import TypeAdapter

from common.errors import ModelRefused
from generator import configs, layout, weights
from generator.layout import Layout
from generator.weights import Header, Index

log = structlog.get_logger()

# Bounds for one file: memory beyond the process's own, and CPU time. The largest files known take a
# fifth of either.
MAX_MEMORY_BYTES = 512 * 2**20
MAX_CPU_S = 5
# An answer is one line: a config, reduced, or the names of 1,000 kinds of tensors.
MAX_ANSWER_BYTES = 2**20

# The functions that a file may be read with, and the types that they return.
READERS: dict[str, tuple[Callable[..., Any], TypeAdapter[Any]]] = {
    "config": (configs.read, TypeAdapter(dict[str, Any])),
    "layout": (layout.read, TypeAdapter(Layout)),
    "index": (weights.read_index, TypeAdapter(Index)),
    "header": (weights.read_header, TypeAdapter(Header)),
}


class Reader:
    """The process that parses, started with the first large file and again after it has died."""

    def __init__(self, max_memory: int = MAX_MEMORY_BYTES, max_cpu: int = MAX_CPU_S) -> None:
        self.max_memory = max_memory
        self.max_cpu = max_cpu
        self._process: Process | None = None
        self._turn = asyncio.Lock()

    async def read(self, kind: str, content: bytes, **arguments: Any) -> Any:
        """Parse `content` with a function of READERS, whose keyword arguments these are.

        Raises:
            ModelRefused: the function does, or the file took more than its share.
        """
        # Shielded, since half an answer would be read for the next one.
        asking = asyncio.ensure_future(self._ask(kind, content, arguments))
        # Retrieve the error in case the caller has gone.
        asking.add_done_callback(lambda done: done.cancelled() or done.exception())
        answer = json.loads(await asyncio.shield(asking))
        if "refused" in answer:
            raise ModelRefused(answer["refused"], **answer["details"])
        return READERS[kind][1].validate_python(answer["read"])

    async def _ask(self, kind: str, content: bytes, arguments: dict[str, Any]) -> bytes:
        async with self._turn:
            process = await self._started()
            assert process.stdin
            assert process.stdout
            question = {"kind": kind, "length": len(content), "arguments": arguments}
            try:
                process.stdin.write(json.dumps(question).encode() + b"\n" + content)
                await process.stdin.drain()
                answer = await process.stdout.readline()
            except (OSError, ValueError):
                answer = b""
            if answer.endswith(b"\n"):
                return answer
            await self._end()
            log.warning("a file took more than its share", kind=kind, bytes=len(content))
            raise ModelRefused(
                f"a file of the model takes more than {self.max_cpu} s or "
                f"{self.max_memory // 2**20} MiB to read",
                reason="config",
            )

    async def _started(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            command = (sys.executable, "-m", "generator.reading")
            bounds = (str(self.max_memory), str(self.max_cpu))
            self._process = await asyncio.create_subprocess_exec(
                *command, *bounds, stdin=PIPE, stdout=PIPE, limit=MAX_ANSWER_BYTES
            )
        return self._process

    async def _end(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._process = None

    async def close(self) -> None:
        async with self._turn:
            await self._end()


def answer(question: dict[str, Any], content: bytes) -> bytes:
    """Parse one file; return the line to answer."""
    read, adapter = READERS[question["kind"]]
    try:
        found = read(content=content, **question["arguments"])
        written = {"read": adapter.dump_python(found, mode="json")}
    except ModelRefused as error:
        written = {"refused": error.message, "details": error.details}
    # Python's own, since a config may hold integers of any size.
    return json.dumps(written).encode() + b"\n"


def serve(questions: BinaryIO, answers: BinaryIO, max_memory: int, max_cpu: int) -> None:
    """Answer questions until there are none, each within its share of memory and CPU time."""
    bound(resource.RLIMIT_AS, _address_space() + max_memory)
    while line := questions.readline():
        question = json.loads(line)
        content = questions.read(question["length"])
        used = resource.getrusage(resource.RUSAGE_SELF)
        # At the soft limit the kernel ends the process, in the middle of a parser too.
        bound(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + 1 + max_cpu)
        answers.write(answer(question, content))
        answers.flush()


def bound(limit: int, value: int) -> None:
    """Lower or raise the soft limit, as far as the hard one allows."""
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
