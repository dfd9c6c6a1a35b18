"""Smoke test of the images: start a stack from them, generate a module, measure its model.

    python -m images.start services=ROOT worker-cpu=ROOT edge=ROOT nats=ROOT

Every part but PostgreSQL is a container of runc: no root, no rights, nothing that can be written
but what the part needs, and this machine's network. Needs root.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import psutil
from images.inventory import container as confined

from hub.testing import RunningHub
from integration.caller import Account
from local.nats import CONFIGURATION
from local.process import Process, Program
from local.services import SERVICES
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
USER = 1000
# Images of the parts that are not the services'.
IMAGES = {"worker": "worker-cpu", "envoy": "edge", "nats": "nats"}
PROGRAMS = {"envoy": "envoy", "nats": "/nats-server"}
RUNC = shutil.which("runc") or "runc"
# Longer than a run takes on a machine that does other work too, in seconds.
RUN_TIMEOUT_S = 300.0
# Docker asks several times as well, before it calls a container unhealthy.
CHECK_TIMEOUT_S = 60.0
# Answers of a system that is not ready yet.
TRY_AGAIN = (502, 503, 504)
# What a worker writes: models, and what torch compiles or shares between processes.
WORKER_WRITES = {"/models": "2g", "/dev/shm": "512m"}  # noqa: S108


class Contained(Process):
    """A supervised `runc run`."""

    def kill(self) -> None:
        """Kill the container as well, which would outlive `runc run`."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.pid).children():
                child.kill()
        super().kill()


class Containers(Stack):
    """A stack whose processes, except PostgreSQL, run in containers.

    Args:
        roots: the unpacked images by name.
        home: as of `Stack`.
        options: further ones of `Stack`.
    """

    def __init__(self, roots: Mapping[str, Path], home: Path | None = None, **options: Any) -> None:
        super().__init__(home, **options)
        self.roots = roots
        # Containers outlive whoever started them: a time limit must end this process in order.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def close(self) -> None:
        super().close()
        for name in self.processes:
            command = ["runc", "delete", "--force", self.container(name)]
            subprocess.run(command, capture_output=True, check=False)

    def container(self, name: str) -> str:
        """Return the runc container name of a process."""
        return f"lilypad-{os.getpid()}-{name}"

    def _run(self, program: Program) -> Process:
        if program.name == "postgres":
            return super()._run(program)
        return super()._run(self._contained(program), Contained)

    def _contained(self, program: Program) -> Program:
        """Return a program that runs the same command in the service's image."""
        part = program.name.partition("-")[0]
        root = self.roots[IMAGES.get(part, "services")]
        command = [PROGRAMS.get(part, "python"), *program.command[1:]]
        folders = {"nats": [self.home / "nats", CONFIGURATION.parent]}.get(part, [])
        if program.directory:
            folders = [program.directory]
        inherited = os.environ if part not in PROGRAMS else {}
        environment = {k: v for k, v in program.environment.items() if inherited.get(k) != v}
        # Modules of tests, such as the storm's model that costs nothing.
        search = environment.get("PYTHONPATH", "").split(os.pathsep)
        folders += [Path(folder) for folder in search if Path(folder).is_absolute()]
        if part == "worker":
            environment |= {"HF_HOME": "/models", "HOME": "/tmp"}  # noqa: S108
        settings = confined(
            root,
            command,
            environment,
            network=True,
            writable=WORKER_WRITES if part == "worker" else None,
            folders=folders,
            directory=str(program.directory or "/"),
        )
        bundle = self.home / "bundles" / program.name
        bundle.mkdir(parents=True)
        (bundle / "config.json").write_text(json.dumps(settings))

        def prepare() -> None:
            program.prepare()
            for path in WORKER_WRITES if part == "worker" else ():
                # runc gives what it mounts there the mode of the folder, which it makes itself
                # the first time.
                (root / path[1:]).mkdir(parents=True, exist_ok=True)
                (root / path[1:]).chmod(0o1777)
            subprocess.run(
                ["runc", "delete", "--force", self.container(program.name)],
                capture_output=True,
                check=False,
            )
            for folder in (self.home / part, program.directory):
                if folder and part in PROGRAMS:
                    folder.mkdir(exist_ok=True)
                    for path in (folder, *folder.rglob("*")):
                        shutil.chown(path, USER, USER)

        return replace(
            program,
            command=[RUNC, "run", "--bundle", str(bundle), self.container(program.name)],
            environment={"PATH": os.environ["PATH"]},
            directory=None,
            prepare=prepare,
        )


def healthy(stack: Containers, process: str) -> None:
    """Wait until a container passes the health check of `services.Dockerfile`."""
    recipe = (Path(__file__).parent / "services.Dockerfile").read_text()
    check = recipe.partition("HEALTHCHECK ")[2].partition("CMD")[2].replace("\\\n", " ")
    command = json.loads(check.strip().splitlines()[0])
    command = [RUNC, "exec", stack.container(process), *command]
    deadline = time.monotonic() + CHECK_TIMEOUT_S
    while subprocess.run(command, check=False).returncode:
        assert time.monotonic() < deadline, f"the health check of {process} fails"
        time.sleep(1)


def isolation(stack: Containers) -> str:
    """Return the worker's log line on its sandbox; fail if it is needlessly incomplete."""
    worker = stack.container("worker-1")
    log = stack.processes["worker-1"].log.read_text()
    [*_, line] = [json.loads(line) for line in log.splitlines() if '"isolation ' in line]
    missing = line.get("missing", "")
    said = f"{line['event']} {missing}".strip()
    namespaces = ["unshare", "--user", "--map-root-user", "--net", "--pid", "--fork"]
    tried = [RUNC, "exec", worker, *namespaces, "--mount-proc", "true"]
    allowed = not subprocess.run(tried, capture_output=True, check=False).returncode
    # The containers that are started here have no memory limit.
    assert missing in {"", "memory"} or not allowed, said
    return f"the worker says: {said}"


def patient(ask: Callable[[], httpx2.Response]) -> httpx2.Response:
    """Repeat a request while a busy machine answers "try again"."""
    deadline = time.monotonic() + RUN_TIMEOUT_S
    while (answer := ask()).status_code in TRY_AGAIN and time.monotonic() < deadline:
        time.sleep(1)
    return answer


def use(url: str) -> list[str]:
    """Generate a module and measure its model; return a line about each."""
    account = Account(url)
    account.http.timeout = 125
    deadline = time.monotonic() + RUN_TIMEOUT_S
    answer = patient(lambda: account.generate(MODEL))
    assert answer.status_code == 200, answer.text
    files = answer.json()["data"]["files"]
    lines = [f"generated a module of {len(files)} files"]
    body = {"modelId": MODEL, "batchSizes": [1], "iterations": 4, "warmup": 1}
    once = {"Idempotency-Key": "images"}
    run = patient(lambda: account.post("/v1/api/benchmark", body, headers=once))
    assert run.status_code in (200, 202), run.text
    where = f"/v1/api/benchmark/{run.json()['data']['id']}"
    headers = {**account.headers, "Prefer": "wait=30"}
    while run.json()["data"]["state"] in ("queued", "running"):
        assert time.monotonic() < deadline, run.text
        run = patient(lambda: account.http.get(where, headers=headers))
        assert run.status_code in (200, 202), run.text
    data = run.json()["data"]
    assert data["state"] == "succeeded", data
    return [*lines, f"measured it: {data['results']['latency'][0]:.1f} ms"]


def roots_of(arguments: Sequence[str]) -> dict[str, Path]:
    """Return the unpacked images by name, from arguments `NAME=ROOT`."""
    return {name: Path(root) for name, _, root in (each.partition("=") for each in arguments)}


def main(arguments: list[str]) -> None:
    roots = roots_of(arguments)
    services = [replace(service, replicas=1) for service in SERVICES]
    with RunningHub(first=[MODEL]) as hub:
        environment = {"HF_ENDPOINT": hub.url, "OMP_NUM_THREADS": "1"}
        with Containers(roots, services=services, environment=environment) as stack:
            try:
                for process in ("gateway-1", "realtime-1"):
                    healthy(stack, process)
                for line in (isolation(stack), *use(stack.url)):
                    print(line, flush=True)
            except BaseException:
                for name, process in stack.processes.items():
                    print(f"--- {name}\n{process.last_words()}", file=sys.stderr)
                raise


if __name__ == "__main__":
    main(sys.argv[1:])
