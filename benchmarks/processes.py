"""Processes that a benchmark starts in addition to the stack."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def require(*programs: str) -> None:
    """Exit if a program is missing, and print the apt-get command that installs it.

    Each program's Debian package has the program's name.
    """
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        packages = " ".join(missing)
        sys.exit(f"missing: {', '.join(missing)}; install with: sudo apt-get install {packages}")


def part(*arguments: str) -> list[str]:
    """Return the command that runs a part of `gateway_parts`."""
    return [sys.executable, "-m", "benchmarks.gateway_parts", *arguments]


@contextlib.contextmanager
def running(command: list[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    """Run a command until the block ends."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {}), "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def wait_until_served(port: int, key: str) -> None:
    """Wait until the endpoint answers 200."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/api/generate",
        data=b'{"modelUrl": "a/b"}',
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200
        except OSError:
            time.sleep(0.2)
        else:
            return
