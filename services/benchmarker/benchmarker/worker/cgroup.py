"""Control groups, which bound and end all processes of a model together.

A group is made below the worker's own one, where the kernel offers the memory controller there and
lets the worker write: in version 2, and in the older version 1, which has a tree per controller.
"""

import contextlib
import itertools
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

log = structlog.get_logger()

PREFIX = "lilypad-"
# The worker's own group, once it makes others: a group of version 2 has processes or subgroups.
WORKER = "lilypad-worker"
UNIFIED = "unified"
MEMORY, PIDS = "memory", "pids"
# Files that are written where the kernel has them, by controller; the first bounds the memory, and
# the second includes swapped memory in version 1, and forbids swapping in version 2.
MEMORY_FILES = ("memory.max", "memory.limit_in_bytes")
SWAP_FILES = {"memory.swap.max": 0, "memory.memsw.limit_in_bytes": None}
OOM_FILES = ("memory.events", "memory.oom_control")
# Version 1 shows a missing limit as the largest number of pages.
UNLIMITED_BYTES = 1 << 60
# Longest wait for killed processes to end.
END_S, PAUSE_S = 5.0, 0.01
# Moves the shell itself into each group, then becomes the program.
JOIN = (
    "/bin/sh", "-c",
    'while [ "$1" != -- ]; do echo 0 > "$1/cgroup.procs" || exit 1; shift; done; shift; exec "$@"',
    "sh",
)  # fmt: skip

_numbers = itertools.count()


@dataclass(frozen=True)
class Group:
    """A model's control group: one folder in version 2, one per controller in version 1."""

    folders: tuple[Path, ...]

    def command(self, program: Iterable[str]) -> list[str]:
        """Return the command line of a program that is in the group from its start."""
        return [*JOIN, *map(str, self.folders), "--", *program]

    def ran_out(self) -> bool:
        """Return whether the kernel killed a process because the group was out of memory."""
        for file in (folder / name for folder in self.folders for name in OOM_FILES):
            with contextlib.suppress(OSError):
                counts = dict(line.split() for line in file.read_text().splitlines())
                if int(counts.get("oom_kill", 0)):
                    return True
        return False

    def end(self) -> None:
        """Kill all processes of the group, and delete it."""
        deadline = time.monotonic() + END_S
        for folder in self.folders:
            while _kill(folder) and time.monotonic() < deadline:
                time.sleep(PAUSE_S)
            while not _delete(folder) and time.monotonic() < deadline:
                time.sleep(PAUSE_S)


@dataclass(frozen=True)
class Groups:
    """The folders in which this worker may make groups."""

    folders: tuple[Path, ...]

    @contextmanager
    def group(self, memory_bytes: int, processes: int) -> Iterator[Group]:
        """Yield a group with these limits; its processes end with the block."""
        name = f"{PREFIX}{os.getpid()}-{_begin_of(os.getpid())}-{next(_numbers)}"
        group = Group(tuple(folder / name for folder in self.folders))
        try:
            for folder in group.folders:
                folder.mkdir()
                _limit(folder, memory_bytes, processes)
            yield group
        finally:
            group.end()


def find(root: Path = Path("/")) -> Groups | None:
    """Return where this worker may make groups that bound memory; None if nowhere.

    In version 2 the worker moves into a subgroup of its own group, which it must be alone in.
    """
    own = _own_folders(root)
    if (memory := own.get(MEMORY)) is not None:
        groups = Groups(tuple(own[name] for name in (MEMORY, PIDS) if name in own))
    elif (memory := own.get(UNIFIED)) is not None and _delegated(memory):
        groups = Groups((memory,))
    else:
        return None
    try:
        with groups.group(UNLIMITED_BYTES, 1) as group:
            subprocess.run(group.command(["true"]), stderr=subprocess.DEVNULL, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.info("control groups not available", reason=str(error))
        return None
    _delete_left_over(groups)
    return groups


def memory_limit(root: Path = Path("/")) -> int | None:
    """Return the bytes to which this worker's container or service is limited; None if to none."""
    own = _own_folders(root)
    limits = []
    for folder in filter(None, (own.get(MEMORY), own.get(UNIFIED))):
        for group, name in itertools.product((folder, *folder.parents), MEMORY_FILES):
            with contextlib.suppress(OSError, ValueError):  # no such file, or "max"
                limits.append(int((group / name).read_text()))
    return min((limit for limit in limits if limit < UNLIMITED_BYTES), default=None)


def _own_folders(root: Path) -> Mapping[str, Path]:
    """Return the folders of this process's groups: by controller, and that of version 2."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
        mounts = (root / "proc/self/mountinfo").read_text().splitlines()
    except OSError:
        return {}
    paths: dict[str, str] = {}
    for line in groups:
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(",") if controllers else [UNIFIED], path)
    folders = {}
    for line in mounts:
        mount, _, kind = line.partition(" - ")
        top, place = mount.split()[3:5]
        system, _, options = kind.split(" ", 2)
        names = {"cgroup": options.split(","), "cgroup2": [UNIFIED]}.get(system, [])
        for name in {MEMORY, PIDS, UNIFIED}.intersection(names, paths):
            with contextlib.suppress(ValueError):  # a group outside of what is mounted
                folder = root / place.lstrip("/") / Path(paths[name]).relative_to(top)
                folders[name] = folder
    return folders


def _delegated(folder: Path) -> bool:
    """Return whether subgroups of a group of version 2 have the memory controller.

    A group that has it to give away gives it, and this process moves out of it.
    """
    try:
        if MEMORY in (folder / "cgroup.subtree_control").read_text().split():
            return True
        offered = (folder / "cgroup.controllers").read_text().split()
        # Only the machine's own root has no type; it is not the worker's to change.
        if MEMORY not in offered or not (folder / "cgroup.type").exists():
            return False
        worker = folder / WORKER
        worker.mkdir(exist_ok=True)
        (worker / "cgroup.procs").write_text("0")
        wanted = " ".join(f"+{name}" for name in (MEMORY, PIDS) if name in offered)
        try:
            (folder / "cgroup.subtree_control").write_text(wanted)
        except OSError:  # another process is in the group
            (folder / "cgroup.procs").write_text("0")
            worker.rmdir()
            raise
    except OSError as error:
        log.info("control groups not available", reason=error.strerror)
        return False
    return True


def _limit(folder: Path, memory_bytes: int, processes: int) -> None:
    for name in MEMORY_FILES:
        if (folder / name).exists():
            (folder / name).write_text(str(memory_bytes))
    for name, limit in SWAP_FILES.items():
        if (folder / name).exists():
            (folder / name).write_text(str(memory_bytes if limit is None else limit))
    if (folder / "pids.max").exists():
        (folder / "pids.max").write_text(str(processes))


def _kill(folder: Path) -> bool:
    """Kill a group's processes; return whether it still has some."""
    try:
        processes = (folder / "cgroup.procs").read_text().split()
        if processes and (folder / "cgroup.kill").exists():
            (folder / "cgroup.kill").write_text("1")
            return True
    except OSError:
        return False
    for process in set(processes) - {"0"}:  # 0: one of another process namespace
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(int(process), signal.SIGKILL)
    return bool(processes)


def _delete(folder: Path) -> bool:
    """Delete a group; return False if the kernel is not done with its processes."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


def _delete_left_over(groups: Groups) -> None:
    """End the groups of workers that were killed."""
    for folder in (found for parent in groups.folders for found in parent.glob(f"{PREFIX}*-*")):
        if _is_left_over(folder.name):
            Group((folder,)).end()


def _is_left_over(name: str) -> bool:
    """Return whether the worker that made a group has ended.

    Its number alone does not tell: in a container, a restarted worker gets the same one.
    """
    worker, *rest = name.removeprefix(PREFIX).split("-")
    if not worker.isdecimal():
        return False
    begin = _begin_of(worker)
    if begin is None or len(rest) > 1:
        return rest[0] != begin
    return worker == str(os.getpid())  # an earlier version's, which name no begin


def _begin_of(process: int | str) -> str | None:
    """Return a process's start time, in ticks since boot; None if it has ended."""
    try:
        stat = Path("/proc", str(process), "stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]
