"""Supervised programs: start, readiness, restart, stop."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CHILD = str(Path(__file__).with_name("child.py"))
# Pauses before restarts of a program that keeps exiting; a run longer than STEADY_S resets them to
# the first.
RESTART_PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY_S = 10.0
# How long a part may take to start, in seconds: long, because a slow machine is not an error, and a
# part that exits is noticed at once.
START_TIMEOUT_S = 120.0
# A log that has grown beyond this many bytes becomes `<name>.log.1`.
MAX_LOG_BYTES = 8 * 1024 * 1024


class CannotStart(Exception):
    """A part that did not start; the message says why and what to do."""


class Report:
    """A listener for progress; this one ignores it."""

    def ready(self, part: str, seconds: float) -> None:
        """Report that a part is ready, and after how many seconds."""

    def note(self, sentence: str) -> None:
        """Report a fact that the operator should know."""


@dataclass(frozen=True)
class Program:
    """A program to run, and its supervision settings.

    Attributes:
        name: of the process and its log.
        command: the program's path and its arguments.
        environment: all of it; nothing is inherited.
        ready: whether it serves now; must return within a second or so.
        stop_signal: asks it to end.
        grace: seconds it has for that before it is killed.
        death_signal: the signal that the kernel sends it when the supervisor is killed.
        account: the user to run as; None: the current one.
        directory: to run in.
        prepare: called before each start; may raise `CannotStart`.
        before_stop: called before the stop signal, to drain work.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    ready: Callable[[], bool]
    stop_signal: signal.Signals = signal.SIGTERM
    grace: float = 10.0
    death_signal: signal.Signals = signal.SIGKILL
    account: str | None = None
    directory: Path | None = None
    prepare: Callable[[], None] = field(default=lambda: None)
    before_stop: Callable[[], None] = field(default=lambda: None)


def tied(
    command: Sequence[str],
    account: str | None = None,
    death_signal: signal.Signals = signal.SIGKILL,
) -> list[str]:
    """Return the command line of a program that ends when this process ends."""
    prefix = [sys.executable, "-I", "-S", CHILD, str(os.getpid()), str(int(death_signal))]
    return [*prefix, account or "-", *command]


class Process:
    """One program, supervised by its own thread.

    The same thread forks it: on Linux, a child gets its death signal when the
    thread that started it ends.

    Attributes:
        born: when it was last started, on the monotonic clock.
        came_up: it has served; from then on it is started again whenever it ends.
        failure: why it did not come up; None while it may yet.
    """

    def __init__(self, program: Program, log: Path, report: Report) -> None:
        self.program = program
        self.name = program.name
        self.log = log
        self.born = 0.0
        self.came_up = False
        self.failure: str | None = None
        self._report = report
        # Bytes in the log from before it was started.
        self._said = 0
        self._popen: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        # Held from the decision to restart until the restart, so that no stop can intervene.
        self._deciding = threading.Lock()

    @property
    def pid(self) -> int:
        """Process id of the running or the last process."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.returncode is None

    @property
    def serves(self) -> bool:
        return self.running and self.program.ready()

    def start(self) -> None:
        """Start the program; `wait_until_ready` returns when it serves."""
        self._stopping.clear()
        self.born = time.monotonic()
        self.came_up = False
        self.failure = None
        self._thread = threading.Thread(target=self._keep_running, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the program and its children, and wait until they have ended."""
        if self._thread is None:
            return
        with self._deciding:
            self._stopping.set()
            popen = self._popen
        if popen is not None and self.running:
            with contextlib.suppress(OSError):  # it ended by itself meanwhile
                self.program.before_stop()
            popen.send_signal(self.program.stop_signal)
            self._thread.join(self.program.grace)
            if self._thread.is_alive():
                grace = f"{self.program.grace:g} s"
                self._report.note(f"{self.name} did not end within {grace}; killing it")
                popen.kill()
        self._thread.join()
        self._thread = None

    def kill(self) -> None:
        """Kill the program without marking it stopped; it is restarted if it ever served."""
        popen = self._popen
        assert popen is not None, f"{self.name} was never started"
        popen.kill()
        # Return only once it has ended, so that a caller that waits next waits for its successor.
        while popen.returncode is None:
            time.sleep(0.01)

    def last_words(self, lines: int = 12) -> str:
        """Return the last log lines since the program's last start."""
        try:
            with self.log.open(errors="replace") as log:
                log.seek(self._said)
                return "".join(deque(log, lines)).rstrip()
        except FileNotFoundError:
            return ""

    def _keep_running(self) -> None:
        pauses = iter(RESTART_PAUSES_S)
        while True:
            try:
                end = self._run_once()
            except (OSError, CannotStart) as error:
                end = f"could not be started: {error}"
            if self._stopping.is_set():
                return
            if not self.came_up:
                self.failure = end
                return
            if time.monotonic() - self.born > STEADY_S:
                pauses = iter(RESTART_PAUSES_S)
            pause = next(pauses, RESTART_PAUSES_S[-1])
            self._report.note(f"{self.name} {end}; starting it again in {pause:g} s ({self.log})")
            if self._stopping.wait(pause):
                return
            self.born = time.monotonic()

    def _run_once(self) -> str:
        """Start the program, wait for its end, and return a description of the end."""
        self.program.prepare()
        with self._deciding:
            if self._stopping.is_set():
                return ""
            self._popen = popen = self._spawn()
        # Not reaped until its group has been killed: until then no other process can have its id.
        os.waitid(os.P_PID, popen.pid, os.WEXITED | os.WNOWAIT)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(popen.pid, signal.SIGKILL)
        status = popen.wait()
        if status < 0:
            return f"was ended by {signal.Signals(-status).name}"
        return f"ended with status {status}"

    def _spawn(self) -> subprocess.Popen[bytes]:
        rotate(self.log)
        program = self.program
        with self.log.open("ab") as log:
            self._said = log.tell()
            return subprocess.Popen(
                tied(program.command, program.account, program.death_signal),
                env=dict(program.environment),
                cwd=program.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in a terminal is handled by the supervisor, which stops everything in
                # order.
                start_new_session=True,
            )


def rotate(log: Path) -> None:
    """Copy a long log to `<name>.log.1` and truncate it, since a running program has it open."""
    if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def wait_until_ready(
    processes: Sequence[Process], report: Report, seconds: float = START_TIMEOUT_S
) -> None:
    """Return when all processes serve.

    Raises:
        CannotStart: one ended before it came up, or the time is up.
    """
    deadline = time.monotonic() + seconds
    waiting = list(processes)
    while waiting:
        for process in list(waiting):
            if process.failure is not None:
                raise CannotStart(f"{process.name} {process.failure}{_quoted(process)}")
            if process.serves:
                waiting.remove(process)
                process.came_up = True
                report.ready(process.name, time.monotonic() - process.born)
        if waiting and time.monotonic() > deadline:
            names = ", ".join(process.name for process in waiting)
            raise CannotStart(f"{names} not ready after {seconds:g} s{_quoted(waiting[0])}")
        if waiting:
            time.sleep(0.02)


def _quoted(process: Process) -> str:
    words = process.last_words()
    return f"; the end of {process.log}:\n{words}" if words else ""
