"""Operation of an edge: certificates, observation, restarts."""

import http.client
import json
import os
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import pytest
import trustme

from local import ports
from local.envoy import FOLDER, Envoy
from local.process import Process, Report, wait_until_ready
from local.stack import Stack
from local.tests.http1 import get

CALLERS = 4


@contextmanager
def running(envoy: Envoy, directory: Path) -> Iterator[Process]:
    process = Process(envoy.program(), directory / "log", Report())
    process.start()
    try:
        wait_until_ready([process], Report())
        yield process
    finally:
        process.stop()


def install(authority: trustme.CA, directory: Path, name: str) -> None:
    """Install a certificate as Kubernetes does: a new directory, switched to by a symbolic link."""
    fresh = directory / name
    fresh.mkdir(parents=True)
    issued = authority.issue_cert("localhost")
    issued.private_key_pem.write_to_path(fresh / "tls.key")
    chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
    (fresh / "tls.crt").write_bytes(chain)
    (directory / "..next").symlink_to(name)
    (directory / "..next").rename(directory / "..data")
    for file in ("tls.crt", "tls.key"):
        if not (directory / file).exists():
            (directory / file).symlink_to(f"..data/{file}")


def test_the_edge_serves_tls_and_reloads_a_renewed_certificate(edge: Stack, tmp_path: Path) -> None:
    authority, certificates = trustme.CA(), tmp_path / "tls"
    install(authority, certificates, "first")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["http/1.1"])
    (port,) = ports.find(1)

    def serial() -> str:
        connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
        connection.connect()
        assert connection.sock.selected_alpn_protocol() == "http/1.1"
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        certificate = connection.sock.getpeercert()
        connection.close()
        assert certificate is not None
        return str(certificate["serialNumber"])

    envoy = Envoy(tmp_path, port, edge.addresses["gateway"], [], certificates=certificates)
    with running(envoy, tmp_path) as process:
        first, pid = serial(), process.pid
        connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
        for path in ("/admit/", "/socket.io/"):  # of the edge's own answers too
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (404, 503)
            # Where the caller came by TLS, and only there, see `assert_envelope`.
            hsts = answer.headers["strict-transport-security"]
            assert hsts == "max-age=63072000; includeSubDomains"
        connection.close()
        install(authority, certificates, "second")
        while serial() == first:
            time.sleep(0.05)
        assert process.pid == pid


def test_each_poll_of_a_socket_reaches_its_replica_without_a_cookie(
    edge: Stack, tmp_path: Path
) -> None:
    (port,) = ports.find(1)
    replicas = edge.addresses["gateway"]
    with running(Envoy(tmp_path, port, [], replicas), tmp_path):
        chosen = set()
        for number in range(40):
            request = f"X-Request-Id: request_{number}"
            first = get(port, "/socket.io/?EIO=4&transport=polling", request)
            assert "set-cookie" not in first.headers
            assert first.headers["x-content-type-options"] == "nosniff"
            replica = first.json()["pid"]
            chosen.add(replica)
            for query in ("EIO=4&sid={}&t=1", "sid={}", "EIO=4&transport=websocket&sid={}&x=.y"):
                path = f"/socket.io/?{query.format(f'request_{number}.abc-D_9')}"
                assert get(port, path).json()["pid"] == replica
        assert len(chosen) == len(replicas)


def test_readiness_and_metrics_need_no_admin_interface(edge: Stack) -> None:
    assert edge.edge.observe("/ready") == "LIVE\n"
    assert 'envoy_cluster_upstream_rq_total{envoy_cluster_name="gateway"}' in edge.edge.observe(
        "/stats/prometheus"
    )
    for path in ("/quitquitquit", "/config_dump", "/stats"):
        assert edge.edge.observe(path) == ""


class Callers:
    """Callers that spread requests over the listed edges, as a Kubernetes Service does."""

    def __init__(self, listed: list[int]) -> None:
        self.listed = listed
        self.failures: list[str] = []
        self.answered = 0
        self.enough = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=[n]) for n in range(CALLERS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.enough.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        connection = None
        while not self.enough.is_set():
            if connection is None:
                port = self.listed[(number + self.answered) % len(self.listed)]
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            try:
                connection.request("GET", "/v1/api/alerts")
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                connection = None
                continue
            self.answered += 1
            if answer.status != 200:
                self.failures.append(str(answer.status))
            if answer.will_close:
                connection.close()
                connection = None
        if connection is not None:
            connection.close()


@pytest.mark.parametrize("requests", [2_000, pytest.param(10_000, marks=pytest.mark.long)])
def test_a_rolling_restart_of_two_edges_loses_no_request(
    requests: int, edge: Stack, tmp_path: Path
) -> None:
    class Reachable(Envoy):
        """An edge whose admin interface is a port, as in a pod."""

        admin_port = 0

        def _prepare(self) -> None:
            super()._prepare()
            file = self.directory / "envoy.yaml"
            address = '{"socket_address": {"address": "127.0.0.1", "port_value": %d}}'
            pipe = '{"pipe": {"path": "admin.sock", "mode": 384}}'
            text = file.read_text()
            assert pipe in text
            file.write_text(text.replace(pipe, address % self.admin_port))

        def drain(self, seconds: float = 0) -> None:
            environment = {**os.environ, "ADMIN_PORT": str(self.admin_port)}
            environment |= {"DELAY_S": "1", "GRACE_S": "30"}
            subprocess.run([FOLDER / "drain.sh"], env=environment, check=True)

    processes: list[tuple[int, Process]] = []
    free = iter(ports.find(4))
    for name in ("a", "b"):
        port, admin_port = next(free), next(free)
        envoy = Reachable(tmp_path / name, port, edge.addresses["gateway"], [], 1_000_000)
        envoy.admin_port = admin_port
        processes.append((port, Process(envoy.program(), tmp_path / f"{name}.log", Report())))
    for _, process in processes:
        process.start()
    wait_until_ready([process for _, process in processes], Report())
    try:
        with Callers([port for port, _ in processes]) as callers:
            while callers.answered < requests:  # restarted throughout
                for port, process in processes:
                    # The Service's list follows a little later than the stop begins.
                    timer = threading.Timer(0.5, callers.listed.remove, [port])
                    timer.start()
                    process.stop()
                    timer.join()
                    process.start()
                    wait_until_ready([process], Report())
                    callers.listed.append(port)
    finally:
        for _, process in processes:
            process.stop()
    assert callers.answered >= requests
    assert callers.failures == []


def test_the_page_for_an_unavailable_service_is_shown_only_for_408_429_and_502_or_more() -> None:
    text = (FOLDER / "envoy.yaml").read_text()
    [mapper] = [m for m in text.split("            - filter:") if "does not answer</h1>" in m]
    bounds = re.findall(r"op: (\w+), value: { default_value: (\d+)", mapper)
    assert bounds == [("EQ", "408"), ("EQ", "429"), ("GE", "502")]


def test_the_page_for_an_unavailable_service_has_hsts_over_tls(tmp_path: Path) -> None:
    authority, certificates = trustme.CA(), tmp_path / "tls"
    install(authority, certificates, "first")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    (port,) = ports.find(1)
    with running(Envoy(tmp_path, port, [], [], certificates=certificates), tmp_path):
        connection = http.client.HTTPSConnection("localhost", port, timeout=60, context=context)
        connection.request("GET", "/", headers={"Accept": "text/html"})
        answer = connection.getresponse()
        connection.close()
    assert (answer.status, answer.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert answer.headers["strict-transport-security"] == "max-age=63072000; includeSubDomains"


def logged(edge: Stack, request: str) -> str:
    """Return the line of the edge's log about a request, as soon as it is there."""
    while True:
        for line in edge.processes["envoy"].log.read_text().splitlines():
            if request in line:
                return line
        time.sleep(0.1)


def test_the_edge_logs_requests_that_failed_or_were_refused(edge: Stack) -> None:
    get(edge.port, "/socket.io/?token=secret", "X-Request-Id: of-the-edge")
    line = logged(edge, "of-the-edge")
    record = json.loads(line)
    assert (record["status"], record["path"], record["service"]) == (503, "/socket.io/", "edge")
    assert "secret" not in line
    get(edge.port, "/v1/api/models", "X-Request-Id: of-success")
    for status in (400, 404, 500):
        get(edge.port, f"/v1/api/refused/{status}", f"X-Request-Id: refused-{status}")
        record = json.loads(logged(edge, f"refused-{status}"))
        assert (record["status"], record["method"]) == (status, "GET")
        assert record["event"] == "via_upstream"
        assert record["durationMs"] >= 0
    assert "of-success" not in edge.processes["envoy"].log.read_text()
