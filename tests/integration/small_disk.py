"""A small disk that tests can fill up, and a bus that stores its streams on it."""

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from local import ports
from local.credentials import Credentials
from local.nats import Nats
from local.process import Process, Report, wait_until_ready

PAGE = 4096


@dataclass(frozen=True)
class Bus:
    """A bus whose streams are on a small disk."""

    disk: Path
    server: Nats
    process: Process

    async def start(self) -> None:
        self.process.start()
        await asyncio.to_thread(wait_until_ready, [self.process], Report())

    async def stop(self) -> None:
        await asyncio.to_thread(self.process.stop)


@asynccontextmanager
async def bus(folder: Path, size: str = "4m", options: Sequence[str] = ()) -> AsyncIterator[Bus]:
    """Serve NATS from a small disk while the block runs, with more options of the command line."""
    with mounted(folder / "disk", size) as disk:
        [port] = ports.find(1)
        server = Nats(disk / "nats", port, Credentials(folder / "secrets"))
        program = server.program()
        program = replace(program, command=[*program.command, *options])
        small = Bus(disk, server, Process(program, folder / "nats.log", Report()))
        try:
            await small.start()
            yield small
        finally:
            await small.stop()


def mount(folder: Path, size: str) -> Path | str:
    """Mount a disk at a new folder and return the folder, or the reason why it failed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "lilypad-test", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else folder


def unmount(disk: Path) -> None:
    subprocess.run(["umount", "--lazy", disk], check=True)


@contextmanager
def mounted(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk while the block runs; skip the test if this machine cannot."""
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
