"""All parts of the system: ordered start, restarts, ordered stop.

    with Stack() as stack:
        httpx.get(f"{stack.url}/healthz")
        os.kill(stack.processes["gateway-1"].pid, signal.SIGKILL)

A stack without a home is a throw-away: its data are in a temporary directory
that is deleted when it is closed. Fewer `servers` and `services` make a smaller one:
`Stack(servers={"nats"}, services=())` is a bus and nothing else.
"""

import errno
import fcntl
import http.client
import json
import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Self

from local import ports
from local.credentials import Credentials
from local.envoy import FLOOD_LIMIT, Address, Envoy
from local.nats import Nats
from local.ports import HOST
from local.postgres import Postgres
from local.process import CannotStart, Process, Program, Report, rotate, wait_until_ready
from local.services import SERVICES, Service

SERVERS = frozenset({"postgres", "nats", "envoy"})
# Not every service may have these variables: each is passed by name.
RESTRICTED = {"HF_ENDPOINT", "HF_TOKEN", "NATS_URL", "DATABASE_URL", "ENCRYPTION_KEYS"}
# In the home: where the servers of the stack that runs from it listen, as JSON.
PORTS = "ports"
# How often the logs' sizes are checked, in seconds.
LOG_CHECK_INTERVAL_S = 5.0


class AlreadyRuns(CannotStart):
    """Another stack runs from the same home."""


class Stack:
    """All parts of a system, with their shared home, ports and passwords.

    Args:
        home: directory of data, logs and secrets; None: a temporary one.
        port: of the edge; 0: a free one.
        services: which ones to run.
        servers: which of "postgres", "nats" and "envoy".
        environment: in addition to, or in place of, this process's own.
        flood_limit: requests per second and address that the edge lets through.
        report: the listener for progress.
        command: what a person types to start it, for advice.
    """

    def __init__(
        self,
        home: Path | None = None,
        *,
        port: int = 0,
        services: Sequence[Service] = SERVICES,
        servers: Collection[str] = SERVERS,
        environment: Mapping[str, str] | None = None,
        flood_limit: int = FLOOD_LIMIT,
        report: Report | None = None,
        command: str = "make run",
    ) -> None:
        self._temporary = home is None
        self.home = Path(tempfile.mkdtemp(prefix="lilypad-") if home is None else home).resolve()
        self.services = services
        self.servers = servers
        self.environment = {**os.environ, **(environment or {})}
        self.report = report or Report()
        self.command = command
        self.processes: dict[str, Process] = {}
        self._lock: int | None = None
        self._closed = threading.Event()

        replicas = sum(s.replicas * (s.http + s.probed) for s in services)
        postgres, nats, edge, *free = ports.find(3 + replicas)
        self.port = port or edge
        self.url = f"http://{HOST}:{self.port}"
        self.addresses: dict[str, list[Address]] = {
            service.name: [(HOST, free.pop()) for _ in range(service.replicas)]
            for service in services
            if service.http
        }
        self._ports = {"postgres": postgres, "nats": nats}
        self.probes: dict[str, list[Address]] = {
            service.name: [(HOST, free.pop()) for _ in range(service.replicas)]
            for service in services
            if service.probed
        }
        self._flood_limit = flood_limit

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start all parts; returns when all of them serve.

        Raises:
            CannotStart: with a sentence that says why; nothing is left running.
        """
        try:
            if self._lock is None:
                self.claim()
            self._start_servers()
            self._start_services()
            self._start_edge()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep_logs_small, name="logs", daemon=True).start()

    def close(self) -> None:
        """Stop all parts: the edge first, the parts that others depend on last."""
        self._closed.set()
        servers = ("envoy", "nats", "postgres")
        self._stop_all([self.processes[name] for name in ("envoy",) if name in self.processes])
        self._stop_all([p for name, p in self.processes.items() if name not in servers])
        self._stop_all([self.processes[name] for name in servers[1:] if name in self.processes])
        if self._lock is not None:
            if "envoy" in self.processes:
                self.edge.close()
            os.close(self._lock)
            self._lock = None
        if self._temporary:
            shutil.rmtree(self.home, ignore_errors=True)

    def stop(self, name: str) -> None:
        """Stop one process (`gateway-1`, `nats`) without a restart."""
        self.processes[name].stop()

    def restart(self, name: str) -> None:
        """Stop one process, start it, and wait until it serves."""
        self.processes[name].stop()
        self.processes[name].start()
        self.wait_until_ready(name)

    def wait_until_ready(self, *names: str) -> None:
        """Wait until these processes serve, or all if none is named, including restarting ones."""
        chosen = [self.processes[name] for name in names or self.processes]
        wait_until_ready(chosen, Report())

    def environment_of(self, service: Service, replica: int = 0) -> dict[str, str]:
        """Return the environment variables of a replica of a service."""
        inherited = {k: v for k, v in self.environment.items() if k not in RESTRICTED}
        environment = {"LOG_LEVEL": "INFO", **inherited, "PUBLIC_URL": self.url}
        if "nats" in self.servers:
            environment["NATS_URL"] = self.nats.url(service.name)
        if service.database and "postgres" in self.servers:
            environment["DATABASE_URL"] = self.postgres.url(service.name)
        if service.http:
            host, port = self.addresses[service.name][replica]
            environment |= {"HTTP_HOST": host, "HTTP_PORT": str(port)}
        if service.probed:
            environment["PROBE_PORT"] = str(self.probes[service.name][replica][1])
        if service.encrypts:
            own = self.environment.get("ENCRYPTION_KEYS")
            environment["ENCRYPTION_KEYS"] = own or self._credentials.key("encryption")
        if service.hub:
            hub = ("HF_ENDPOINT", "HF_TOKEN")
            environment |= {k: self.environment[k] for k in hub if k in self.environment}
        return environment

    def claim(self) -> None:
        """Claim the home and the port: one stack per home, one server per port.

        `start` begins with it; call it earlier to fail before other work that would
        be in vain.

        Raises:
            CannotStart: with a sentence that says why.
        """
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The directory itself is the lock: the kernel releases it when this process ends.
            lock = os.open(self.home, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise CannotStart(f"{self.home} cannot be used: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise AlreadyRuns(
                f"it already runs from {self.home}; stop that one first, or start this one"
                f" elsewhere: LILYPAD_HOME=.lilypad-2 PORT={ports.nearest(8080)} {self.command}"
            ) from None
        self._lock = lock
        self._check_owner()
        self._check_port()
        self.logs = self.home / "logs"
        self.logs.mkdir(exist_ok=True)
        self._credentials = credentials = Credentials(self.home / "secrets")
        self.postgres = Postgres(self.home / "postgres", self._ports["postgres"], credentials)
        if "postgres" in self.servers:
            self.postgres.check()
        self.nats = Nats(self.home / "nats", self._ports["nats"], credentials)
        (self.home / PORTS).write_text(json.dumps(self._ports))
        self.edge = Envoy(
            self.home / "envoy",
            self.port,
            self.addresses.get("gateway", []),
            self.addresses.get("realtime", []),
            self._flood_limit,
        )

    def _check_port(self) -> None:
        why = ports.obstacle(self.port) if "envoy" in self.servers else 0
        if not why:
            return
        in_use = "is taken by another program; end it, or"
        not_ours = "may be used by root alone; become that, or"
        raise CannotStart(
            f"port {self.port} {not_ours if why == errno.EACCES else in_use} use another port:"
            f" PORT={ports.nearest(max(self.port, 1023))} {self.command}"
        )

    def _check_owner(self) -> None:
        secrets = self.home / "secrets"
        if secrets.exists() and (owner := secrets.stat().st_uid) != os.geteuid():
            raise CannotStart(
                f"{self.home} was made by another user (number {owner});"
                " run as that one, or set LILYPAD_HOME to another directory"
            )

    def _start_servers(self) -> None:
        started = []
        if "nats" in self.servers:
            started.append(self._run(self.nats.program()))
        if "postgres" in self.servers:
            started.append(self._run(self.postgres.program()))
        wait_until_ready(started, self.report)
        if "postgres" in self.servers:
            self.postgres.create_schemas([s.name for s in self.services if s.database])

    def _start_services(self) -> None:
        started = [
            self._run(self._service_program(service, replica))
            for service in self.services
            for replica in range(service.replicas)
        ]
        wait_until_ready(started, self.report)

    def _start_edge(self) -> None:
        # Last: it listens once it has checked every replica.
        if "envoy" in self.servers:
            wait_until_ready([self._run(self.edge.program())], self.report)

    def _service_program(self, service: Service, replica: int) -> Program:
        return Program(
            name=f"{service.name}-{replica + 1}",
            command=[sys.executable, "-m", service.module or service.name],
            environment=self.environment_of(service, replica),
            ready=lambda: self._serves(service, replica),
            # The duration of the longest answer under way.
            grace=25.0,
        )

    def _serves(self, service: Service, replica: int) -> bool:
        if service.http:
            return _answers_200(self.addresses[service.name][replica], "/readyz")
        names = [f"{service.name}-{number + 1}" for number in range(service.replicas)]
        running = sum(self.processes[name].running for name in names if name in self.processes)
        return self.nats.answers(service.name) >= running

    def _run(self, program: Program, supervisor: type[Process] = Process) -> Process:
        process = supervisor(program, self.logs / f"{program.name}.log", self.report)
        self.processes[program.name] = process
        process.start()
        return process

    def _stop_all(self, processes: Sequence[Process]) -> None:
        if processes:
            with ThreadPoolExecutor(len(processes)) as pool:
                list(pool.map(Process.stop, processes))

    def _keep_logs_small(self) -> None:
        while not self._closed.wait(LOG_CHECK_INTERVAL_S):
            for process in self.processes.values():
                rotate(process.log)


def _answers_200(address: Address, path: str) -> bool:
    with closing(http.client.HTTPConnection(*address, timeout=2)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
