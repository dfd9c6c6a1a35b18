"""A process that is asked and answers, one JSON line each way.

Its supervisor waits in the kernel between a question and its answer, so that
it takes nothing from what is measured. The same file has both ends.
"""

import asyncio
import contextlib
import ctypes
import json
import os
import runpy
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

# One answer: the times of a block, with a moment per generated token.
LONGEST_LINE = 16 * 1024 * 1024
PR_SET_PDEATHSIG = 1
# What a child may see of this process's environment: no token, no address, no password.
KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "COVERAGE_PROCESS_START",
)  # fmt: skip


class OutOfMemory(Exception):
    """What was asked for does not fit; the child may be gone."""


class Failed(Exception):
    """The child says why, or how it ended; `reason` is one word for programs."""

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason


# The supervisor's end


class Child:
    def __init__(self, process: Process) -> None:
        self.process = process

    async def ask(self, **question: Any) -> dict[str, Any]:
        """Send a question and wait, blocked, for its answer.

        Raises:
            OutOfMemory: it says so, or the kernel killed it.
            Failed: it says why, or it ended in the middle.
        """
        assert self.process.stdin
        assert self.process.stdout
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
            await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        if not line.endswith(b"\n"):
            await self._explain_end()
        answer: dict[str, Any] = json.loads(line)
        if "outOfMemory" in answer:
            raise OutOfMemory(answer["outOfMemory"])
        if "failed" in answer:
            raise Failed(answer["failed"], answer.get("reason", "failed"))
        return answer

    async def _explain_end(self) -> None:
        code = await self.process.wait()
        if code == -signal.SIGKILL:
            raise OutOfMemory("the process was killed, as happens when memory runs out")
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise Failed(f"the process ended with {how}", "crashed")

    async def kill(self) -> None:
        """End it and what it has started, at once; the device is free when this returns."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


@asynccontextmanager
async def started(
    module: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Child]:
    """`python -m <module>` for as long as the block runs, in a session of its own."""
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", __name__, module),
        stdin=PIPE,
        stdout=PIPE,
        env={**kept, "TOKENIZERS_PARALLELISM": "false", **(environment or {})},
        limit=LONGEST_LINE,
        start_new_session=True,
    )
    child = Child(process)
    try:
        yield child
    finally:
        await child.kill()


# The child's end


def answer_questions(handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Answer each line of standard input, until it ends.

    Libraries print to standard output; what they print goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        answers.write(json.dumps(handle(json.loads(line))) + "\n")
        answers.flush()


def _die_with_parent() -> None:
    """A worker that is killed must not leave a model behind that still has the device."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if parent == 1 or os.getppid() != parent:
            sys.exit("the supervisor is gone")


if __name__ == "__main__":
    # First of all: what the module imports takes seconds.
    _die_with_parent()
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
