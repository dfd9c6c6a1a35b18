"""A metrics-only stack, on its own PostgreSQL or an external one (`external_database`).

Between the service and its database stands a relay, which can hold everything
up: a database that neither answers nor closes its connections.
"""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import httpx2

from integration import external_database
from integration.caller import Account
from local.services import Service
from local.stack import Stack

GATEWAY = Service("gateway", replicas=2, database=True, http=True)
METRICS = Service("metrics", replicas=2, database=True)
V2 = {"X-Lilypad-Beta": "v2"}
MANY = "/v2/api/monitor/record"
LIMITS = dict.fromkeys(("RATE_API", "RATE_REGISTER"), "10000000")
# A stopped thread ends at once, or when its last request
# times out; in seconds.
STOPPED = 90.0


def join(threads: Iterable[threading.Thread]) -> None:
    for thread in threads:
        thread.join(STOPPED)
        assert not thread.is_alive(), f"{thread.name} did not stop within {STOPPED:g} s"


class Relay:
    """A TCP relay between its own port and another server."""

    def __init__(self) -> None:
        self.target = ("", 0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self._passing = threading.Event()
        self._passing.set()
        self._closed = False
        self._ends: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def _start(self, target: Any, *arguments: Any) -> threading.Thread:
        # A daemon: a relay that was not closed does not keep the process from ending.
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def __enter__(self) -> Self:
        """Suspend all traffic."""
        self._passing.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._passing.set()

    def close(self) -> None:
        self._closed = True
        self._passing.set()
        _shut(self.listener)
        for end in list(self._ends):
            _shut(end)
        join(self._threads)

    def _accept(self) -> None:
        with self.listener:
            while True:
                try:
                    client, _ = self.listener.accept()
                except OSError:
                    return
                self._start(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        self._passing.wait()
        with client:
            try:
                server = socket.create_connection(self.target, timeout=10)
            except OSError:
                return
            with server:
                server.settimeout(None)
                ends = {client, server}
                self._ends |= ends
                if (
                    self._closed
                ):  # closed while this connection was made: only this thread can shut it
                    for end in ends:
                        _shut(end)
                back = self._start(self._pass_on, server, client)
                self._pass_on(client, server)
                back.join()
                self._ends -= ends

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                self._passing.wait()
                sink.sendall(data)
        _shut(source)
        _shut(sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


class MonitoredStack(Stack):
    def __init__(self) -> None:
        super().__init__(services=(GATEWAY, METRICS), environment=LIMITS, flood_limit=1_000_000)
        self.relay = Relay()
        self.external: external_database.ExternalDatabase | None = None
        self._rest = contextlib.ExitStack()

    def environment_of(self, service: Service, replica: int = 0) -> dict[str, str]:
        environment = super().environment_of(service, replica)
        if service is METRICS:
            url = urlsplit(self.database_url)
            self.relay.target = (url.hostname or "127.0.0.1", url.port or 5432)
            account = url.netloc.rpartition("@")[0]
            relayed = url._replace(netloc=f"{account}@127.0.0.1:{self.relay.port}")
            environment["DATABASE_URL"] = urlunsplit(relayed)
        return environment

    @property
    def database_url(self) -> str:
        return self.external.url if self.external else self.postgres.url("metrics")

    @property
    def role(self) -> str:
        return self.external.role if self.external else "metrics"

    def start(self) -> None:
        self.external = self._rest.enter_context(external_database.database())
        if self.external:
            self.query("create schema metrics")
        super().start()

    def close(self) -> None:
        super().close()
        self.relay.close()
        self._rest.close()

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Query the database itself."""
        return external_database.execute(self.database_url, statement, *parameters)

    def administer(self, statement: str, *parameters: Any) -> None:
        """Run a statement as the owner of the database server."""
        owner = self.external.owner if self.external else self.postgres.url()
        external_database.execute(owner, statement, *parameters)

    def kill_database(self) -> None:
        """Kill the database without warning; on a shared server, its connections."""
        os.kill(self.processes["postgres"].pid, signal.SIGKILL)
        if self.external:
            self.end_connections()

    def end_connections(self) -> None:
        self.administer(
            "select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", self.role
        )


def at(**ago: float) -> str:
    """Return the RFC 3339 time this long ago."""
    return (datetime.now(UTC) - timedelta(**ago)).isoformat()


def record(account: Account, **body: Any) -> httpx2.Response:
    body.setdefault("modelId", "m")
    return account.post("/v1/api/monitor/record", body)


def record_many(account: Account, records: list[dict[str, Any]]) -> httpx2.Response:
    return account.post(MANY, {"records": records}, headers=V2)


def monitor(account: Account, model: str = "m", **body: Any) -> dict[str, Any]:
    answer = account.post("/v1/api/monitor", {"modelId": model, **body})
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data
