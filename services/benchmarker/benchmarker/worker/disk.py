"""The disk for fetched models: a budget in bytes, with eviction of the least recently used.

A worker holds a lock on the mark of the model that it uses, an empty file whose time is that of
the last use. So workers of one machine can share the cache.
"""

import fcntl
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from huggingface_hub.file_download import repo_folder_name

# Default budget, as a share of the free space plus the space that models already take.
DEFAULT_SHARE = 0.9
# Reason of a temporary failure: other workers' models fill the disk.
BUSY = "disk-busy"


class TooLarge(Exception):
    """A model larger than the whole budget."""


class InUse(Exception):
    """Models in use that leave too little of the budget."""


@contextmanager
def in_use(cache: Path, id: str, commit: str) -> Iterator[None]:
    """Protect a model in the cache from eviction during the block."""
    mark = _mark(cache, repo_folder_name(repo_id=id, repo_type="model"), commit)
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        os.utime(mark)
        yield


@contextmanager
def room(cache: Path, others: Iterable[Path], needed: int, budget: int | None) -> Iterator[None]:
    """Evict models until `needed` bytes fit; no other worker fetches during the block.

    Args:
        cache: the cache that workers share.
        others: folders of models that are in no cache.
        needed: bytes that are about to be fetched.
        budget: bytes that all models may take; by default a share of the disk.

    Raises:
        TooLarge: `needed` exceeds the budget.
        InUse: nothing more can be evicted.
    """
    cache.mkdir(parents=True, exist_ok=True)
    folders = [cache, *others]
    with (cache / "room").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if budget is None:
            budget = int((shutil.disk_usage(cache).free + _size(folders)) * DEFAULT_SHARE)
        if needed > budget:
            raise TooLarge(f"its files take {needed:,} bytes; the worker keeps at most {budget:,}")
        for snapshot in _least_recently_used(cache):
            if _size(folders) + needed <= budget:
                break
            _evict(cache, snapshot)
        if _size(folders) + needed > budget:
            raise InUse("models in use take the worker's disk")
        yield


def _least_recently_used(cache: Path) -> list[Path]:
    """Return the folders of all cached commits, least recently used first."""

    def used_at(snapshot: Path) -> float:
        mark = _mark(cache, snapshot.parents[1].name, snapshot.name)
        return mark.stat().st_mtime if mark.exists() else 0.0

    return sorted(cache.glob("models--*/snapshots/*"), key=used_at)


def _evict(cache: Path, snapshot: Path) -> None:
    """Delete a commit that is not in use, and the blobs that no other commit links to."""
    repository = snapshot.parents[1]
    mark = _mark(cache, repository.name, snapshot.name)
    mark.parent.mkdir(parents=True, exist_ok=True)
    with mark.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return
        shutil.rmtree(snapshot)
        linked = {path.resolve() for path in snapshot.parent.rglob("*") if path.is_symlink()}
        for blob in (repository / "blobs").glob("*"):
            if blob.resolve() not in linked:
                blob.unlink()


def _mark(cache: Path, repository: str, commit: str) -> Path:
    # Beside the cache, since a child creates the cache's folders readable for confined children.
    return cache.with_name(f"{cache.name}-in-use") / f"{repository}@{commit}"


def _size(folders: Iterable[Path]) -> int:
    """Return the bytes of all files in folders, without following links."""
    total = 0
    for folder in folders:
        for entry in folder.rglob("*"):
            with suppress(FileNotFoundError):  # another worker has just deleted it
                if not entry.is_dir() or entry.is_symlink():
                    total += entry.lstat().st_size
    return total
