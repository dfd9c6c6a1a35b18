"""A child process that answers the worker's questions, one JSON line each way.

Between a question and its answer the supervisor sleeps in the kernel, so that it costs the
measurement nothing. `process` is the child's end.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import structlog

from benchmarker.worker.cgroup import Group
from benchmarker.worker.process import END, ENDED, FORK, ISOLATED, SEALED, Failed, kill_orphans
from benchmarker.worker.sandbox import Sandbox, search_path
from models.dtypes import MIB

log = structlog.get_logger()

# An answer holds at most the times of a block, with a moment per generated token.
MAX_LINE_BYTES = 16 * MIB
PROCESS = "benchmarker.worker.process"
# Bounds of what is logged of a child's standard error, which may be a stranger's program.
MAX_LOGGED_LINES = 100
MAX_LOGGED_CHARACTERS = 500
CHUNK_BYTES = 65_536
# A descendant that outlived its child would keep standard error open.
LAST_WORDS_S = 5.0
# Base of the exit code by which shells and bubblewrap report a signal.
SIGNAL_EXIT = 128
# Variables that a child inherits: no token, no address, no password.
INHERITED = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES", "COVERAGE_PROCESS_START",
)  # fmt: skip


class OutOfMemory(Exception):
    """A question that needed more memory than was available; the child may have ended."""


@dataclass(frozen=True)
class Confinement:
    """A child's sandbox, the one folder that it may write, and the folders that it may read."""

    sandbox: Sandbox
    scratch: Path
    readable: tuple[Path, ...] = ()
    group: Group | None = None


class Child:
    def __init__(self, process: Process) -> None:
        self.process = process
        # Whether the answering process has ended, and whether the whole child has.
        self.ended = self.closed = False

    async def request(self, **question: Any) -> dict[str, Any]:
        """Send a question and wait for its answer.

        Raises:
            OutOfMemory: the child reports it, or the kernel killed the child.
            Failed: the child reports a failure, ended, or answered too much.
        """
        await self._send(json.dumps(question).encode() + b"\n")
        line = await self._read()
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict):
            raise Failed("the process answered no JSON object", "crashed")
        if "outOfMemory" in answer:
            raise OutOfMemory(answer["outOfMemory"])
        if "failed" in answer:
            raise Failed(answer["failed"], answer.get("reason", "failed"))
        return answer

    async def renew(self) -> bool:
        """Replace the answering process with a new fork; return False if the child has ended."""
        if not self.ended:
            await self._send(END)
            with contextlib.suppress(OutOfMemory, Failed):
                while True:
                    await self._read()
        if self.closed:
            return False
        await self._send(FORK)
        self.ended = False
        return True

    async def _send(self, line: bytes) -> None:
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.process.stdin.write(line)
            await self.process.stdin.drain()

    async def _read(self) -> bytes:
        assert self.process.stdout
        try:
            line = await self.process.stdout.readline()
        except ValueError:
            limit = f"{MAX_LINE_BYTES // MIB} MiB"
            raise Failed(f"the process answered more than {limit}", "crashed") from None
        if ENDED in line:
            self.ended = True
            with contextlib.suppress(ValueError):
                self._explain_end(int(line.rpartition(ENDED)[2]))
        if not line.endswith(b"\n"):
            self.ended = self.closed = True
            self._explain_end(await self.process.wait())
        return line

    def _explain_end(self, code: int) -> NoReturn:
        if code > SIGNAL_EXIT:
            code = SIGNAL_EXIT - code
        if code == -signal.SIGKILL:
            raise OutOfMemory("the process was killed, as the kernel does when memory runs out")
        cause = f"exit code {code}"
        if -code in signal.valid_signals():
            cause = f"signal {signal.Signals(-code).name}"
        raise Failed(f"the process ended with {cause}", "crashed")

    async def kill(self) -> None:
        """Kill the child and all its descendants, and wait until the device is free."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()
        children.discard(self.process.pid)
        kill_orphans(children)


# Children that this process started itself; any other child is one of their orphans.
children: set[int] = set()


@asynccontextmanager
async def started(
    module: str,
    environment: Mapping[str, str] | None = None,
    confinement: Confinement | None = None,
) -> AsyncIterator[Child]:
    """Run `python -m <module>` in its own session for the duration of the block.

    Code that loads a model runs confined; only the worker's own code runs without.
    """
    variables = {name: os.environ[name] for name in INHERITED if name in os.environ}
    variables |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    isolated = confinement is not None and bool(confinement.sandbox.bubblewrap)
    parent = ISOLATED if isolated else str(os.getpid())
    command = [sys.executable, "-m", PROCESS, module, parent]
    if confinement:
        scratch = confinement.scratch
        # Some libraries look up the user's name and home folder, which a confined child lacks.
        variables |= dict.fromkeys(("HOME", "TMPDIR"), str(scratch)) | {"USER": "lilypad"}
        variables["PYTHONPATH"] = os.pathsep.join(map(str, search_path("PYTHONPATH")))
        command += [SEALED]
        command = confinement.sandbox.command(command, scratch, confinement.readable)
        if confinement.group:
            command = confinement.group.command(command)
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**variables, **(environment or {})},
        limit=MAX_LINE_BYTES,
        start_new_session=True,
    )
    children.add(process.pid)
    child = Child(process)
    assert process.stderr
    output = asyncio.create_task(_log_output(module, process.stderr))
    try:
        yield child
    finally:
        await child.kill()
        await asyncio.wait([output], timeout=LAST_WORDS_S)
        output.cancel()


async def _log_output(module: str, stream: asyncio.StreamReader) -> None:
    """Log what a child writes to standard error, as lines of the worker's own log."""
    logged, rest = 0, b""

    def log_line(line: bytes) -> None:
        nonlocal logged
        text = line.decode(errors="replace").strip()
        if text and logged < MAX_LOGGED_LINES:
            log.info("child wrote", module=module, line=text[:MAX_LOGGED_CHARACTERS])
            logged += 1
            if logged == MAX_LOGGED_LINES:
                log.warning("further lines of the child are dropped", module=module)

    while chunk := await stream.read(CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        rest = rest[:CHUNK_BYTES]
        for line in lines:
            log_line(line)
    log_line(rest)
