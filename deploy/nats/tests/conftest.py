"""Three NATS servers with the production configuration, each on its own address."""

import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from common import bus
from common.bus import NatsBus
from local import ports
from local.credentials import Credentials
from local.nats import Nats, server
from local.process import Process, Program, Report, wait_until_ready

FOLDER = Path(__file__).parents[1]
NAMES = ("nats-0", "nats-1", "nats-2")
# The server that every client of the tests connects to.
CONNECTED = "nats-1"


class Cluster:
    """Three servers as in the StatefulSet: equal ports, and a name for each address."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.client, self.route, self.monitoring = ports.find(3)
        self.hosts = {name: f"127.0.0.{11 + number}" for number, name in enumerate(NAMES)}
        self.users = Nats(folder, self.client, Credentials(folder / "secrets"))
        self.processes = {
            name: Process(self.program(name), folder / f"{name}.log", Report()) for name in NAMES
        }

    def program(self, name: str) -> Program:
        """Return the program of a server, with the current passwords."""
        host = self.hosts[name]
        route = self.users.credentials.password("nats/route")
        routes = [f"nats://route:{route}@{host}:{self.route}" for host in self.hosts.values()]
        environment = {
            **self.users.environment(),
            "NATS_SERVER_NAME": name,
            "NATS_HOST": host,
            "NATS_STORE": str(self.folder / name),
            "NATS_MONITORING": f"{host}:{self.monitoring}",
            "NATS_CLUSTER_LISTEN": f"{host}:{self.route}",
            "NATS_ROUTE_PASSWORD": route,
            "NATS_ROUTES": json.dumps(routes),
        }
        return Program(
            name=name,
            command=[server(), "--config", str(FOLDER / "cluster.conf")],
            environment=environment,
            ready=lambda: self.ready(host),
        )

    def ready(self, host: str) -> bool:
        """Return whether the server is ready, which requires a known cluster leader."""
        try:
            return self.request(host, "/healthz").get("status") == "ok"
        except (OSError, http.client.HTTPException):
            return False

    def request(self, host: str, path: str) -> dict[str, object]:
        connection = http.client.HTTPConnection(host, self.monitoring, timeout=30)
        with contextlib.closing(connection):
            connection.request("GET", path)
            return dict(json.load(connection.getresponse()))

    def url(self, user: str) -> str:
        """Return the address of one server; any server gives access to each stream."""
        password = self.users.credentials.password(f"nats/{user}")
        return f"nats://{user}:{password}@{self.hosts[CONNECTED]}:{self.client}"


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        for process in cluster.processes.values():
            process.start()
        wait_until_ready(list(cluster.processes.values()), Report())
        yield cluster
    finally:
        for process in cluster.processes.values():
            process.stop()


@pytest.fixture
async def control(cluster: Cluster) -> AsyncIterator[NatsBus]:
    async with bus.connect(cluster.url("benchmarker"), "benchmarker") as connection:
        connection.stream_replicas = 3
        yield connection


@pytest.fixture
async def worker(cluster: Cluster) -> AsyncIterator[NatsBus]:
    async with bus.connect(cluster.url("worker"), "worker") as connection:
        yield connection


def start_worker(cluster: Cluster, log: Path) -> subprocess.Popen[bytes]:
    """Start a worker process that runs one job, or exits if none arrives."""
    paths = os.environ["PYTHONPATH"].split(os.pathsep)
    environment = {**os.environ, "NATS_URL": cluster.url("worker")}
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in paths)  # noqa: PTH100
    return subprocess.Popen([sys.executable, FOLDER / "tests" / "one_job.py", log], env=environment)
