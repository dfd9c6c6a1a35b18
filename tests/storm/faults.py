"""Faults of the storm: seeded choice, application, removal, and a log with times."""

import contextlib
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg

from integration import small_disk
from local.stack import Stack

FULL = """
create or replace function metrics.is_full() returns trigger language plpgsql as $$ begin
    raise exception 'could not extend file: No space left on device' using errcode = 'disk_full';
end $$;
create trigger is_full before insert on {table} for each row execute function metrics.is_full()
"""
# Where no disk of its own can be mounted: tables that refuse rows as a full disk would.
TABLES = ("metrics.samples", "benchmarker.runs", "gateway.audit")
# More than one of a kind, where that kind should come more often.
KINDS = ("kill", "kill", "pause", "pause", "restart", "wipe", "full")
# Kinds that hit one part only; the others hit any.
PARTS = {"wipe": "nats", "full": "postgres"}
# Range of times for most faults and for the pauses between them, and that of those which must
# outlast the time in which a replica notices (`READY_S` in `checks.py`).
SHORT_S, LONG_S = (0.5, 6.0), (8.0, 12.0)


@dataclass(frozen=True)
class Fault:
    """A fault that was in force from `start` to `undone`; at `end` everything served again."""

    kind: str
    part: str
    start: float
    undone: float
    end: float


class Faults:
    """A source of faults for parts of a stack, one or two at a time.

    Args:
        stack: the one to hit.
        seed: decides which faults come, and when.
        disk: the stack's own, which may be filled up; None if it has none.
    """

    def __init__(self, stack: Stack, seed: int, disk: Path | None = None) -> None:
        self.stack = stack
        self.disk = disk
        self.done: list[Fault] = []
        self._random = random.Random(seed)
        self._replicas = [
            f"{service.name}-{number + 1}"
            for service in stack.services
            for number in range(service.replicas)
        ]
        self._kinds: dict[str, Callable[[str], contextlib.AbstractContextManager[None]]] = {
            "kill": self._kill,
            "pause": self._pause,
            "restart": self._restart,
            "wipe": self._wipe,
            "full": self._full,
        }

    def draw(self) -> tuple[list[tuple[str, str]], float]:
        """Choose one or two faults, each a kind and a part, and their duration in seconds."""
        kinds = self._random.sample(KINDS, self._random.choice((1, 1, 2)))
        parts = [*self._replicas, "nats", "postgres", "nats", "postgres"]
        while True:
            hit = [(kind, PARTS.get(kind) or self._random.choice(parts)) for kind in kinds]
            # Undoing two faults of one part would start it twice.
            if len({part for _, part in hit}) == len(hit):
                break
        return hit, self._random.uniform(*(LONG_S if "wipe" in kinds else SHORT_S))

    def hit(self) -> str:
        """Apply one or two faults for a while, undo them, and wait until everything serves."""
        hit, lasts_s = self.draw()
        names = [f"{kind} {part}" for kind, part in hit]
        starts = []
        with contextlib.ExitStack() as undone:
            for kind, part in hit:
                undone.enter_context(self._kinds[kind](part))
                starts.append(time.monotonic())
            time.sleep(lasts_s)
            undone_at = time.monotonic()
        self.stack.wait_until_ready()
        end = time.monotonic()
        for name, start in zip(names, starts, strict=True):
            self.done.append(Fault(*name.split(" "), start, undone_at, end))
        return ", ".join(names)

    def pause(self) -> float:
        """Return the pause before the next faults, in seconds."""
        return self._random.uniform(*(LONG_S if self._random.random() < 0.3 else SHORT_S))

    @contextlib.contextmanager
    def _kill(self, part: str) -> Iterator[None]:
        process = self.stack.processes[part]
        if process.running:
            process.kill()
        yield

    @contextlib.contextmanager
    def _pause(self, part: str) -> Iterator[None]:
        stopped: list[psutil.Process] = []
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.stack.processes[part].pid)
            parent.suspend()  # first, so that it starts no further children
            stopped.append(parent)
            stopped += parent.children(recursive=True)
        for process in stopped[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.suspend()
        try:
            yield
        finally:
            for process in stopped:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.resume()

    @contextlib.contextmanager
    def _restart(self, part: str) -> Iterator[None]:
        yield
        self.stack.stop(part)
        self.stack.processes[part].start()

    @contextlib.contextmanager
    def _wipe(self, _: str) -> Iterator[None]:
        """Stop the bus, delete its stored data, and restart it."""
        self.stack.stop("nats")
        shutil.rmtree(self.stack.nats.data, ignore_errors=True)
        try:
            yield
        finally:
            self.stack.processes["nats"].start()

    @contextlib.contextmanager
    def _full(self, _: str) -> Iterator[None]:
        """Fill up the disk of the database, the bus and the logs."""
        if self.disk is not None:
            ballast = small_disk.fill(self.disk)
            try:
                yield
            finally:
                ballast.unlink()
            return
        self._administer([FULL.format(table=table) for table in TABLES])
        try:
            yield
        finally:
            self._administer([f"drop trigger if exists is_full on {table}" for table in TABLES])

    def _administer(self, statements: list[str]) -> None:
        """Change the database; retry until the database is available."""
        left = list(statements)
        while left:
            try:
                with psycopg.connect(self.stack.postgres.url(), connect_timeout=5) as database:
                    database.execute("set lock_timeout = '5s'")
                    database.execute(left[0].encode())
                left.pop(0)
            except psycopg.errors.DuplicateObject:
                left.pop(0)
            except psycopg.OperationalError:
                time.sleep(0.2)
