"""The edge beyond its limits: connections, memory, streams, replicas that refuse connections."""

import socket
import ssl
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import trustme

from local import ports
from local.envoy import Address, Envoy, _affordable_connections
from local.process import Process, Report, wait_until_ready
from local.stack import Stack
from local.tests.http1 import Answer, assert_envelope, get, read
from local.tests.test_envoy_operation import install, running

CONNECTIONS = 8
CONNECTIONS_FULL = "global_downstream_max_connections, threshold: { value: 1 }"
# Far more requests than the edge takes to notice.
MAX_REQUESTS = 2000
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
# Frames of HTTP/2 (RFC 9113) and a setting in one of them.
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, SETTINGS = 0, 1, 4
END_STREAM_AND_HEADERS = 5
MAX_CONCURRENT_STREAMS = 3


class Changed(Envoy):
    """An edge with other figures in its configuration."""

    def __init__(
        self, directory: Path, port: int, gateway: list[Address], changes: dict[str, str]
    ) -> None:
        super().__init__(directory, port, gateway, [], flood_limit=1_000_000)
        self.changes = changes

    def _prepare(self) -> None:
        super()._prepare()
        file = self.directory / "envoy.yaml"
        text = file.read_text()
        for now, then in self.changes.items():
            assert now in text
            text = text.replace(now, then)
        file.write_text(text)


@contextmanager
def changed(edge: Stack, directory: Path, changes: dict[str, str]) -> Iterator[tuple[int, Envoy]]:
    """The port of an edge with changed figures, and the edge, in front of the same replicas."""
    (port,) = ports.find(1)
    envoy = Changed(directory, port, edge.addresses["gateway"], changes)
    process = Process(envoy.program(), directory / "log", Report())
    process.start()
    try:
        wait_until_ready([process], Report())
        yield port, envoy
    finally:
        process.stop()


def test_a_connection_beyond_the_bound_is_closed_until_another_one_ends(
    edge: Stack, tmp_path: Path
) -> None:
    def answered(connection: socket.socket) -> bool:
        try:
            connection.sendall(REQUEST)
            return read(connection).status == 200
        except (ConnectionError, AssertionError):  # reset, or closed without an answer
            return False

    name = "max_active_downstream_connections: "
    changes = {f"{name}{_affordable_connections()}": f"{name}{CONNECTIONS}"}
    with changed(edge, tmp_path, changes) as (port, _), ExitStack() as opened:

        def connect() -> socket.socket:
            return opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))

        connections: list[socket.socket] = []
        # The connection by which readiness was tried may not have ended yet.
        while len(connections) < CONNECTIONS:
            connection = connect()
            if answered(connection):
                connections.append(connection)
        assert not answered(connect())
        assert all(answered(connection) for connection in connections)
        connections.pop().close()
        while not answered(connect()):
            time.sleep(0.05)


def test_without_memory_a_request_is_refused_with_the_envelope(edge: Stack, tmp_path: Path) -> None:
    changes = {
        # As if all were in use, without the last stage, which refuses connections as well.
        "max_heap_size_bytes: 1073741824": "max_heap_size_bytes: 1",
        "fixed_heap, threshold: { value: 0.98 }": CONNECTIONS_FULL,
    }
    with changed(edge, tmp_path, changes) as (port, _):
        for _ in range(MAX_REQUESTS):
            if (answer := get(port, "/")).status != 200:  # the heap was looked at
                break
    assert answer.status == 503
    assert_envelope(answer, 5003)
    assert answer.headers["connection"] == "close"


def test_a_replica_that_refuses_connections_gets_no_more_of_them(
    edge: Stack, tmp_path: Path
) -> None:
    # A replica that health checks would exclude only after hours.
    (closed,) = ports.find(1)
    gone = '"port_value": %d}}}}]'
    first, second = (port for _, port in edge.addresses["gateway"])
    changes = {
        gone % second: gone % closed,
        "unhealthy_threshold: 2": "unhealthy_threshold: 100000",
        "http_health_check: { path: /readyz }": "tcp_health_check: {}",
    }
    with (
        socket.create_server(("127.0.0.1", closed)) as listener,
        changed(edge, tmp_path, changes) as (port, envoy),
    ):
        assert first != second
        while envoy.admin("GET", "/clusters").count("::health_flags::healthy") < 3:
            time.sleep(0.05)  # both replicas, and the admin interface's own
        listener.close()
        answers: list[Answer] = []
        while "failed_outlier_check" not in envoy.admin("GET", "/clusters"):
            assert len(answers) < MAX_REQUESTS
            answers.append(get(port, "/", method="POST"))
    assert {answer.status for answer in answers} == {200}


def frames(connection: ssl.SSLSocket) -> Iterator[tuple[int, bytes]]:
    """Yield the type and the content of each frame that is received."""
    received = b""
    while True:
        while len(received) < 9 or len(received) < 9 + int.from_bytes(received[:3]):
            more = connection.recv(65536)
            if not more:
                return
            received += more
        end = 9 + int.from_bytes(received[:3])
        yield received[3], received[9:end]
        received = received[end:]


def frame(kind: int, flags: int, stream: int, content: bytes = b"") -> bytes:
    return len(content).to_bytes(3) + struct.pack(">BBI", kind, flags, stream) + content


def test_a_caller_may_use_http_2_with_at_most_100_requests_at_once(
    edge: Stack, tmp_path: Path
) -> None:
    authority, certificates = trustme.CA(), tmp_path / "tls"
    install(authority, certificates, "first")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["h2"])
    (port,) = ports.find(1)
    envoy = Envoy(tmp_path, port, edge.addresses["gateway"], [], certificates=certificates)
    with (
        running(envoy, tmp_path),
        socket.create_connection(("localhost", port), timeout=60) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as connection,
    ):
        assert connection.selected_alpn_protocol() == "h2"
        # GET, https, `/`, and the authority, by the numbers of HPACK's static table.
        headers = b"\x82\x87\x84\x41\x09localhost"
        connection.sendall(
            PREFACE + frame(SETTINGS, 0, 0) + frame(HEADERS, END_STREAM_AND_HEADERS, 1, headers)
        )
        settings: dict[int, int] = {}
        body = b""
        for kind, content in frames(connection):
            if kind == SETTINGS and content:
                settings = dict(struct.iter_unpack(">HI", content))
            body += content if kind == DATA else b""
            if body.endswith(b"}"):
                break
    assert b'"path": "/"' in body
    assert settings[MAX_CONCURRENT_STREAMS] == 100
