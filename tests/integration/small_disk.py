"""A small disk, and how to fill it."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096


def mount(folder: Path, size: str) -> Path | str:
    """Mount a disk at a new folder and return that; or why not, since only root may."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "lilypad-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else folder


def unmount(disk: Path) -> None:
    subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def mounted(folder: Path, size: str = "4m") -> Iterator[Path]:
    """Mount a disk while the block runs; where this machine cannot, the test is skipped."""
    disk = mount(folder, size)
    if isinstance(disk, str):
        pytest.skip(f"this machine mounts no disk: {disk}")
    try:
        yield disk
    finally:
        unmount(disk)


def fill(disk: Path) -> Path:
    """Fill a disk up; return the file whose deletion frees it."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free // PAGE * PAGE)
        file.seek(0, os.SEEK_END)
        while True:
            file.write(bytes(PAGE))
    return ballast
