"""The child's side: `python -m benchmarker.worker.process <module> <parent>`.

`parent` is the supervisor's process id, or `isolated`: bubblewrap ends its own children.

A module that takes seconds to import answers from processes forked off once it is imported: each
starts in milliseconds, and what one leaves behind reaches none of the others.
"""

import contextlib
import ctypes
import gc
import json
import os
import runpy
import signal
import sys
from collections.abc import Callable
from typing import Any

import psutil

from benchmarker.worker import residence, seal

PR_SET_PDEATHSIG = 1
# Arguments of a confined child.
SEALED, ISOLATED = "sealed", "isolated"
# Control lines between questions: end the answering process; fork a new one.
END, FORK = b"end\n", b"fork\n"
# Precedes the exit code of a process that ended; no answer contains it, finished or not.
ENDED = b"\0"

Handle = Callable[[dict[str, Any]], dict[str, Any]]


class Failed(Exception):
    """A failure or end of the child; `reason` is one word for programs."""

    def __init__(self, message: str, reason: str = "failed") -> None:
        super().__init__(message)
        self.reason = reason


def answer_questions(handle: Handle) -> None:
    """Answer each line of standard input until its end.

    Libraries print to standard output; their text is redirected to standard error.
    """
    gc.enable()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        if line == END:
            return
        answers.write(json.dumps(handle(json.loads(line))) + "\n")
        answers.flush()


def answer_in_forks(begin: Callable[[], Handle]) -> None:
    """Answer questions in a forked process, report its end, and fork again on request.

    Before this, nothing may start a thread or initialize CUDA: neither survives a fork.

    Args:
        begin: makes the handler, in the forked process.
    """
    gc.collect()
    gc.freeze()  # keeps the collector from touching memory that the processes share
    files = residence.files()
    seal.adopt_orphans()
    this = os.getpid()
    commands = os.fdopen(os.dup(0), "rb", buffering=0)
    while True:
        if (process := os.fork()) == 0:
            die_with(this)
            residence.enter(files)
            answer_questions(begin())
            os._exit(0)
        _, status = os.waitpid(process, 0)
        kill_orphans(set())
        os.write(1, b"%s%d\n" % (ENDED, os.waitstatus_to_exitcode(status)))
        while (line := commands.readline()) != FORK:  # questions to the process that has ended
            if not line:
                return


def kill_orphans(children: set[int]) -> None:
    """Kill orphaned descendants, except `children`, which this process started itself."""
    while seal.adopts_orphans():
        orphans = []
        for process in psutil.Process().children():
            if process.pid not in children:
                with contextlib.suppress(psutil.NoSuchProcess):
                    orphans += [process, *process.children(recursive=True)]
        if not orphans:
            return
        for orphan in orphans:
            with contextlib.suppress(psutil.NoSuchProcess):
                orphan.kill()
        psutil.wait_procs(orphans, timeout=1)


def die_with(parent: int) -> None:
    """Make the kernel kill this process when its parent ends, so that the device becomes free."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            sys.exit("the supervisor has ended")


if __name__ == "__main__":
    # Before anything else: the module's imports take seconds. The supervisor may be process 1
    # itself, so that only its own number tells whether it has ended.
    if sys.argv[2] != ISOLATED:
        die_with(int(sys.argv[2]))
    if SEALED in sys.argv:
        seal.seal()
    # Nothing is garbage while libraries load; searching for it takes a fifth of the time.
    gc.disable()
    runpy.run_module(sys.argv[1], run_name="__main__", alter_sys=True)
