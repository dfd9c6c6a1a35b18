"""`make storm`: seeded random faults under mixed load, and a table of checks.

    SEED=7 SECONDS=300 make storm
    python -m storm services=ROOT worker-cpu=ROOT edge=ROOT nats=ROOT   # unpacked images

Two replicas of each service run behind the edge, with a model that costs nothing. Fails where a
line of the table does not hold; with STRICT=0, lines that depend on the machine's speed too are
told and do not count. Their limits grow as the machine is slower (`pace`).
"""

import contextlib
import functools
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import psutil
from images.start import Containers, roots_of
from rich.console import Console
from rich.table import Table

from hub.testing import ROOT, RunningHub
from integration import small_disk
from local.services import SERVICES
from local.stack import Stack
from storm.checks import Check, check, wait_for
from storm.clients import GENERATED, Clients
from storm.faults import Faults
from storm.pace import Pace

QUICK = {"worker": "quick_worker"}
# Size of the stack's disk; it is in memory.
DISK = "600m"
TRACEBACK_CHARACTERS = 1500
# Load after the last fault, in seconds: everything must work again.
CALM_S = 5.0


def main() -> int:
    seed = int(os.environ.get("SEED") or random.randrange(1_000_000))
    seconds = float(os.environ.get("SECONDS") or 300)
    strict = os.environ.get("STRICT", "1") != "0"
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"storm of {seconds:g} s, SEED={seed}")
    checks, hits = storm(seed, seconds, console, roots_of(sys.argv[1:]))
    table = Table(title=f"storm of {seconds:g} s, {hits} faults, SEED={seed}")
    for column in ("check", "figure", "holds"):
        table.add_column(column)
    for line in checks:
        verdict = "yes" if line.holds else "late" if line.timed else "NO"
        table.add_row(line.name, line.figure, verdict)
    console.print(table)
    failed = [line for line in checks if not line.holds and (strict or not line.timed)]
    return 1 if failed else 0


def storm(
    seed: int, seconds: float, console: Console, roots: Mapping[str, Path]
) -> tuple[list[Check], int]:
    """Run a storm against processes of this checkout, or of images in `roots`."""
    start = functools.partial(Containers, roots) if roots else Stack
    path = os.pathsep.join(
        [str(ROOT / "services/benchmarker/tests"), os.environ.get("PYTHONPATH", "")]
    )
    generous = dict.fromkeys(("RATE_API", "RATE_REGISTER", "RATE_LOGIN"), "1000000")
    runs = ("BENCHMARKS_PER_HOUR", "MAX_WAITING", "MAX_WAITING_PER_ACCOUNT")
    services = [
        replace(service, replicas=2, module=QUICK.get(service.name, service.module))
        for service in SERVICES
    ]
    with RunningHub(first=[GENERATED]) as hub:
        environment = {
            "HF_ENDPOINT": hub.url,
            "PYTHONPATH": path,
            **generous,
            **dict.fromkeys(runs, "1000000"),
        }
        with (
            _disk(console) as disk,
            start(
                disk and disk / "home",
                services=services,
                environment=environment,
                flood_limit=1_000_000,
            ) as stack,
        ):
            return _blow(stack, seed, seconds, console, disk)


@contextlib.contextmanager
def _disk(console: Console) -> Iterator[Path | None]:
    """Mount a disk for the stack, to be filled up later; yield None if this machine cannot."""
    with tempfile.TemporaryDirectory(prefix="lilypad-storm-") as folder:
        disk = small_disk.mount(Path(folder) / "disk", DISK)
        if isinstance(disk, str):
            console.print(f"no disk to fill up, so that the database says it is full: {disk}")
            yield None
            return
        # Others than root run the database.
        Path(folder).chmod(0o755)
        try:
            yield disk
        finally:
            small_disk.unmount(disk)


def _blow(
    stack: Stack, seed: int, seconds: float, console: Console, disk: Path | None
) -> tuple[list[Check], int]:
    replicas = {
        f"{name}-{number + 1}": f"http://{host}:{port}"
        for name, addresses in stack.addresses.items()
        for number, (host, port) in enumerate(addresses)
    }
    faults = Faults(stack, seed, disk)
    with Pace() as pace, Clients(stack.url, replicas, seed) as clients:
        time.sleep(CALM_S)
        before, start = _memory(stack), time.monotonic()
        while time.monotonic() < start + seconds:
            console.print(f"{time.monotonic() - start:6.1f} s  {faults.hit()}")
            time.sleep(faults.pause())
        acknowledged = clients.log.answers[200]
        wait_for(lambda: clients.log.answers[200] > acknowledged + 50)
        time.sleep(CALM_S)
        after = _memory(stack)
        clients.stop()
        growth = {name: after[name] - before[name] for name in before}
        checks = check(stack, clients, faults.done, growth, pace)
        share = pace.share(start, time.monotonic())
    tracebacks = {
        name: text[text.rindex("Traceback") :][:TRACEBACK_CHARACTERS]
        for name, process in stack.processes.items()
        if "Traceback" in (text := _text(process.log))
    }
    for name, text in tracebacks.items():
        console.print(f"the last traceback of {name}: {text}", markup=False)
    console.print(f"share of a core that a further process got: {share:.2f}")
    return checks, len(faults.done)


def _memory(stack: Stack) -> dict[str, float]:
    """Return the private memory of each process with its children, in MiB.

    Of the database it is that of its largest process: how many there are is up to the services'
    pools of connections. Its shared memory is left out.
    """
    sizes = {}
    for name, process in stack.processes.items():
        parent = psutil.Process(process.pid)
        family = [parent, *parent.children(recursive=True)]
        members = []
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                memory = member.memory_info()
                members.append((memory.rss - memory.shared) / 2**20)
        sizes[name] = max(members, default=0.0) if name == "postgres" else sum(members)
    return sizes


def _text(log: Path) -> str:
    return log.read_text(errors="replace") if log.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
