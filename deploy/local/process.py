"""A program that is kept running: started, watched, started again, stopped."""

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
# Pauses before a program that keeps dying is started again, in seconds; one
# that lived longer than STEADY begins with the first one.
PAUSES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
STEADY = 10.0
# How long a part may take to come up, in seconds: long, because a slow machine
# is no error, and a part that ends is noticed at once.
PATIENCE = 120.0
# A log that has grown beyond this many bytes becomes `<name>.log.1`.
LARGEST_LOG = 8 * 1024 * 1024


class CannotStart(Exception):
    """A part did not come up; the message tells a person why, and what to do."""


class Report:
    """Hears how things go; this one keeps it to itself."""

    def ready(self, part: str, seconds: float) -> None:
        """A part serves, so many seconds after it was started."""

    def note(self, sentence: str) -> None:
        """Something that whoever runs the stack should know."""


@dataclass(frozen=True)
class Program:
    """What to run, and how to treat it.

    Attributes:
        name: of the process and its log.
        command: the program's path and its arguments.
        environment: all of it; nothing is inherited.
        ready: whether it serves now; must return within a second or so.
        stop_signal: asks it to end.
        grace: seconds it has for that before it is killed.
        death_signal: what the kernel sends it when the supervisor is killed.
        account: the user to run as; None: whoever runs this.
        directory: to run in.
        prepare: called before each start; may raise `CannotStart`.
        before_stop: called before the stop signal, to let work run out.
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
    """The command line of a program that ends when this process does."""
    prefix = [sys.executable, "-I", "-S", CHILD, str(os.getpid()), str(int(death_signal))]
    return [*prefix, account or "-", *command]


class Process:
    """One program under supervision, by a thread of its own.

    The thread also is the one that forks: on Linux a child's death signal is
    sent when the thread that started it ends.

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
        # Between deciding to start it again and having done so, nobody stops it.
        self._deciding = threading.Lock()

    @property
    def pid(self) -> int:
        """Of the process now running, or of the one that ran last."""
        assert self._popen is not None, f"{self.name} was never started"
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.returncode is None

    @property
    def serves(self) -> bool:
        return self.running and self.program.ready()

    def start(self) -> None:
        """Begin to start it; `wait_until_ready` tells when it serves."""
        self._stopping.clear()
        self.born = time.monotonic()
        self.came_up = False
        self.failure = None
        self._thread = threading.Thread(target=self._keep_running, name=self.name, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it and wait until it has ended; its own children go with it."""
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
        """End it at once, as a fault would; it is started again if it ever came up."""
        popen = self._popen
        assert popen is not None, f"{self.name} was never started"
        popen.kill()
        # Not before it has ended, so that whoever waits for it next waits for its successor.
        while popen.returncode is None:
            time.sleep(0.01)

    def last_words(self, lines: int = 12) -> str:
        """The end of its log, since it was last started."""
        try:
            with self.log.open(errors="replace") as log:
                log.seek(self._said)
                return "".join(deque(log, lines)).rstrip()
        except FileNotFoundError:
            return ""

    def _keep_running(self) -> None:
        pauses = iter(PAUSES)
        while True:
            try:
                how = self._run_once()
            except (OSError, CannotStart) as error:
                how = f"could not be started: {error}"
            if self._stopping.is_set():
                return
            if not self.came_up:
                self.failure = how
                return
            if time.monotonic() - self.born > STEADY:
                pauses = iter(PAUSES)
            pause = next(pauses, PAUSES[-1])
            self._report.note(f"{self.name} {how}; starting it again in {pause:g} s ({self.log})")
            if self._stopping.wait(pause):
                return
            self.born = time.monotonic()

    def _run_once(self) -> str:
        """Start it and wait for its end; returns how that came."""
        self.program.prepare()
        with self._deciding:
            if self._stopping.is_set():
                return ""
            self._popen = popen = self._spawn()
        # It is not reaped before its group was killed: until then nobody else
        # can have its number.
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
                # Ctrl-C in a terminal is for the supervisor, which stops things in order.
                start_new_session=True,
            )


def rotate(log: Path) -> None:
    """Keep a log bounded: copy and truncate, since a running program has it open."""
    if log.exists() and log.stat().st_size > LARGEST_LOG:
        shutil.copyfile(log, log.with_name(f"{log.name}.1"))
        os.truncate(log, 0)


def wait_until_ready(
    processes: Sequence[Process], report: Report, seconds: float = PATIENCE
) -> None:
    """Return when all of them serve.

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
