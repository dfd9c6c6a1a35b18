"""A stack for metrics alone, on its own PostgreSQL or on the one at TEST_DATABASE_URL.

Between the service and its database stands a relay, which can hold everything
up: a database that neither answers nor closes its connections.
"""

import contextlib
import os
import socket
import threading
from typing import Any, Self
from urllib.parse import urlsplit, urlunsplit

import psycopg

from local.services import Service
from local.stack import Stack

GATEWAY = Service("gateway", replicas=2, database=True, http=True)
METRICS = Service("metrics", replicas=2, database=True)
LIMITS = dict.fromkeys(("RATE_API", "RATE_REGISTER"), "10000000")


class Relay:
    """Passes bytes on between a port of its own and another server."""

    def __init__(self) -> None:
        self.target = ("", 0)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self._passing = threading.Event()
        self._passing.set()
        self._ends: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Self:
        """Hold everything up."""
        self._passing.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._passing.set()

    def close(self) -> None:
        self._passing.set()
        _shut(self.listener)
        for end in list(self._ends):
            _shut(end)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with self.listener:
            while True:
                try:
                    client, _ = self.listener.accept()
                except OSError:
                    return
                thread = threading.Thread(target=self._serve, args=[client])
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        self._passing.wait()
        with client:
            try:
                server = socket.create_connection(self.target)
            except OSError:
                return
            with server:
                self._ends |= {client, server}
                back = threading.Thread(target=self._pass_on, args=(server, client))
                back.start()
                self._pass_on(client, server)
                back.join()
                self._ends -= {client, server}

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
        return os.environ.get("TEST_DATABASE_URL") or self.postgres.url("metrics")

    def start(self) -> None:
        if url := os.environ.get("TEST_DATABASE_URL"):
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("create schema if not exists metrics")
        super().start()

    def close(self) -> None:
        super().close()
        self.relay.close()

    def query(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What the database itself holds."""
        with psycopg.connect(
            self.database_url, options="-c search_path=metrics", autocommit=True
        ) as connection:
            cursor = connection.execute(statement.encode(), parameters)
            return cursor.fetchall() if cursor.description else []
