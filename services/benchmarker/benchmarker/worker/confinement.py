"""The confinement of a child that loads a model: what it may read, write, and take in memory."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from benchmarker.worker import seal
from benchmarker.worker.cgroup import Group, memory_limit
from benchmarker.worker.child import Confinement
from benchmarker.worker.sandbox import Sandbox
from models.dtypes import MIB


@contextmanager
def confined(
    sandbox: Sandbox, model: str, share: float, memory_mib: float | None = None
) -> Iterator[Confinement]:
    """Yield the confinement of a child that loads a model from a folder.

    The scratch folder is deleted afterwards, even if the child was killed.

    Args:
        sandbox: the machine's.
        model: the folder.
        share: share of the machine's memory that the model may take.
        memory_mib: memory that one of its processes may take, if less than the share.
    """
    folder = Path(model)
    # The Hub's client stores files as links to their content.
    linked = {path.resolve().parent for path in folder.rglob("*") if path.is_symlink()}
    with (
        tempfile.TemporaryDirectory(prefix="lilypad-", ignore_cleanup_errors=True) as scratch,
        _group(sandbox, share, memory_mib) as group,
    ):
        yield Confinement(sandbox, Path(scratch), (folder, *sorted(linked)), group)


@contextmanager
def _group(sandbox: Sandbox, share: float, memory_mib: float | None) -> Iterator[Group | None]:
    """Yield a control group for all processes of a model; None where there are none.

    Together they may take what one of them may, its reserve included.
    """
    if sandbox.groups is None:
        yield None
        return
    machine = psutil.virtual_memory().total
    most = min(machine, memory_limit() or machine) * share
    if memory_mib is not None:
        most = min(most, (memory_mib + seal.RESERVED_MIB) * MIB)
    with sandbox.groups.group(int(most), seal.MAX_PROCESSES) as group:
        yield group
