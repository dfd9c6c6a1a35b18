"""Request bodies at the edge: size limits, admission, memory."""

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from local import ports
from local.envoy import BATCH_BYTES, BODY_BYTES, FLOOD_LIMIT, SMALL_BODY_BYTES, Envoy
from local.process import Process, Report, wait_until_ready
from local.stack import Stack
from local.tests.http1 import Answer, assert_envelope, get, read

BATCH = "/v2/api/monitor/record"
# The other routes that accept more than a few kilobytes.
LARGE = ["/v1/api/benchmark", "/v2/api/generate", "/v1/api/download", "/v1/api/monitor",
         "/v1/api/monitor/record"]  # fmt: skip
# What Java's HttpURLConnection accepts by default; it is no browser.
JAVA = "Accept: text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"


def head(path: str, size: int, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {size}", *headers, "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("path", "size", "headers"),
    [
        ("/", SMALL_BODY_BYTES, ()),
        ("/v1/api/accounts", SMALL_BODY_BYTES, (JAVA,)),
        ("/v1/api/generate/x", SMALL_BODY_BYTES, ("Authorization: somebody",)),
        *((path, BODY_BYTES, ("Authorization: somebody", JAVA)) for path in LARGE),
        (BATCH, BATCH_BYTES, ("Authorization: somebody", JAVA)),
    ],
)
def test_a_body_within_its_routes_bound_passes_and_a_larger_one_is_refused(
    edge: Stack, path: str, size: int, headers: tuple[str, ...]
) -> None:
    passed = get(edge.port, path, *headers, method="POST", body=b"x" * size)
    assert passed.json()["size"] == size
    refused = get(edge.port, path, *headers, method="POST", body=b"x" * (size + 1))
    assert refused.status == 413
    assert_envelope(refused, 1003)
    assert f'"details":{{"limit":{size}}}' in refused.body.decode()


@pytest.mark.parametrize("size", [90_000, 150_000, 300_000, 1_000_000])
def test_a_large_body_without_an_announced_length_arrives_or_is_refused_at_once(
    edge: Stack, size: int
) -> None:
    """The gateway refuses more than `BODY_BYTES`; the edge only has to bound its own memory."""
    lines = ["POST /v1/api/generate HTTP/1.1", "Host: x", "Authorization: somebody"]
    start = "\r\n".join([*lines, "Transfer-Encoding: chunked", "", ""]).encode()
    chunk = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", edge.port)) as connection:
        connection.settimeout(20)
        with suppress(ConnectionError):
            connection.sendall(start + chunk * (size // 10_000) + b"0\r\n\r\n")
        answer = read(connection)
    if size == 1_000_000:
        assert answer.status == 413
        assert_envelope(answer, 1003)
    else:
        assert (answer.status, answer.json()["size"]) == (200, size)


def test_a_browser_that_submits_an_oversized_form_gets_an_error_page(edge: Stack) -> None:
    browser, body = (
        "Accept: text/html,application/xhtml+xml,*/*;q=0.8",
        b"x" * (SMALL_BODY_BYTES + 1),
    )
    refused = get(edge.port, "/", browser, method="POST", body=body)
    assert (refused.status, refused.headers["content-type"]) == (413, "text/html; charset=utf-8")
    page = refused.body.decode()
    assert f"more than {SMALL_BODY_BYTES:,} bytes" in page
    assert refused.headers["x-request-id"] in page
    assert refused.headers["content-security-policy"].startswith("default-src 'none'")
    part = get(edge.port, "/", browser, "HX-Request: true", method="POST", body=body)
    assert_envelope(part, 1003)


@pytest.mark.parametrize("length", ["Content-Length: {}", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize(
    ("path", "size"), [(BATCH, 4_900_000), *((path, SMALL_BODY_BYTES + 1) for path in LARGE)]
)
def test_an_unauthenticated_large_body_is_refused_before_it_is_sent(
    edge: Stack, path: str, size: int, length: str
) -> None:
    lines = [f"POST {path} HTTP/1.1", "Host: x", length.format(size), "X-Request-Id: stranger-1"]
    with socket.create_connection(("127.0.0.1", edge.port)) as connection:
        connection.settimeout(60)
        connection.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = read(connection)
    assert answer.status == 401
    # The refusal comes from the replica.
    assert answer.json()["path"] == f"/admit{path}"
    assert answer.headers["x-request-id"] == "stranger-1"


def test_a_small_body_is_not_announced_to_a_replica(edge: Stack) -> None:
    answer = get(edge.port, "/v1/api/monitor/record", method="POST", body=b"x" * SMALL_BODY_BYTES)
    assert answer.json()["size"] == SMALL_BODY_BYTES


def test_the_edges_admission_request_cannot_be_sent_from_outside(edge: Stack) -> None:
    answer = get(edge.port, f"/admit{BATCH}", "Authorization: me", method="POST")
    assert answer.status == 404
    assert_envelope(answer, 3001)


def test_an_account_that_a_caller_claims_in_a_header_is_not_forwarded(edge: Stack) -> None:
    claimed = ("X-Lilypad-Account: other", "Authorization: me", "X-Forwarded-For: 6.6.6.6")
    answer = get(edge.port, BATCH, *claimed, method="POST", body=b"x")
    seen = dict(answer.json()["headers"])
    assert "x-lilypad-account" not in seen
    assert seen["x-forwarded-for"] == "127.0.0.1"


@contextmanager
def another(
    edge: Stack, directory: Path, flood_limit: int = FLOOD_LIMIT
) -> Iterator[tuple[int, psutil.Process]]:
    """The port and process of another edge in front of the same replicas."""

    (port,) = ports.find(1)
    envoy = Envoy(directory, port, edge.addresses["gateway"], [], flood_limit)
    process = Process(envoy.program(), directory / "log", Report())
    process.start()
    try:
        wait_until_ready([process], Report())
        yield port, psutil.Process(process.pid)
    finally:
        process.stop()


def test_an_accounts_large_bodies_are_limited_and_other_requests_are_not(
    edge: Stack, tmp_path: Path
) -> None:
    large = b"x" * (SMALL_BODY_BYTES + 1)
    with another(edge, tmp_path, flood_limit=500) as (port, _):

        def send(account: str, path: str, body: bytes = b"x") -> Answer:
            return get(port, path, f"Authorization: {account}", JAVA, method="POST", body=body)

        def send_until_refused(path: str, body: bytes) -> Answer:
            answers = (send("greedy", path, body) for _ in range(1000))
            return next(answer for answer in answers if answer.status == 429)

        refused = send_until_refused(BATCH, b"x")
        others = [send("modest", BATCH), send("greedy", LARGE[-1], large)]
        refused_large = send_until_refused(LARGE[-1], large)
        others += [send("modest", LARGE[-1], large), send("greedy", LARGE[-1])]
    assert_envelope(refused, 2002)
    assert refused.json()["error"]["details"] == {"limit": 1}
    assert "batches" in refused.json()["error"]["message"]
    assert_envelope(refused_large, 2002)
    assert refused_large.json()["error"]["details"] == {"limit": 5}
    assert [answer.status for answer in others] == [200] * 4


def test_500_unauthenticated_open_bodies_use_no_memory_and_delay_no_caller(
    edge: Stack, tmp_path: Path
) -> None:
    with another(edge, tmp_path) as (port, process), ExitStack() as opened:
        before = process.memory_info().rss
        for number in range(500):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", port)))
            path, size = (LARGE[number % 5], 99_000) if number % 2 else (BATCH, 4_900_000)
            connection.setblocking(False)
            # The edge may have hung up, or stopped reading.
            with suppress(ConnectionError, BlockingIOError):
                connection.sendall(head(path, size) + b"x" * min(size - 1, 1_000_000))
        others = [get(port, "/") for _ in range(50)]
        grown = process.memory_info().rss - before
    assert {answer.status for answer in others} == {200}
    assert grown < 100 * 2**20
