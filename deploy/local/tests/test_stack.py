"""The whole stack, with the real services."""

import contextlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest

from local import process
from local.process import CannotStart, Report
from local.services import SERVICES, Service
from local.stack import Stack
from local.tests.conftest import DEPLOY, ECHO
from local.tests.http1 import get


class Notes(Report):
    def __init__(self) -> None:
        self.sentences: list[str] = []

    def note(self, sentence: str) -> None:
        self.sentences.append(sentence)


@pytest.fixture(scope="module")
def notes() -> Notes:
    return Notes()


@pytest.fixture(scope="module")
def stack(notes: Notes) -> Iterator[Stack]:
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_TOKEN": "hf_of_the_generator_alone"}
    with Stack(environment=environment, flood_limit=1_000_000, report=notes) as stack:
        yield stack


def of_each(stack: Stack, question: Callable[[psutil.Process], list[Any]]) -> list[Any]:
    """Call a function for every process; skip PostgreSQL's short-lived processes."""
    roots = [psutil.Process(process.pid) for process in stack.processes.values()]
    answers = []
    for member in roots + [child for root in roots for child in root.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            answers += question(member)
    return answers


def test_every_part_of_the_stack_serves(stack: Stack) -> None:
    assert get(stack.port, "/readyz").json()["data"] == {"status": "ready"}
    expected = {f"{s.name}-{n + 1}" for s in SERVICES for n in range(s.replicas)}
    assert set(stack.processes) == {"nats", "postgres", "envoy"} | expected


def test_nothing_listens_to_other_machines(stack: Stack) -> None:
    listening = [
        connection.laddr.ip
        for connection in of_each(stack, psutil.Process.net_connections)
        if connection.status == psutil.CONN_LISTEN
    ]
    assert set(listening) == {"127.0.0.1"}
    # NATS, PostgreSQL, Envoy and two gateways at least.
    assert len(listening) >= 5


def test_only_their_owner_can_read_the_passwords(stack: Stack) -> None:
    assert stack.home.stat().st_mode & 0o077 == 0
    assert (stack.home / "secrets").stat().st_mode & 0o077 == 0
    words = " ".join(of_each(stack, psutil.Process.cmdline))
    assert "nats" in words
    for password in stack.nats.credentials.all():
        assert password not in words


def test_a_service_gets_only_the_variables_it_needs(stack: Stack) -> None:
    def variables_of(name: str) -> dict[str, str]:
        return psutil.Process(stack.processes[name].pid).environ()

    gateway, generator = variables_of("gateway-2"), variables_of("generator-1")
    assert gateway["DATABASE_URL"].startswith("postgresql://gateway:")
    assert gateway["NATS_URL"].startswith("nats://gateway:")
    assert gateway["PUBLIC_URL"] == stack.url
    assert (gateway["HTTP_HOST"], int(gateway["HTTP_PORT"])) == stack.addresses["gateway"][1]
    assert not {"HF_TOKEN", "HF_ENDPOINT"} & set(gateway)
    assert generator["NATS_URL"].startswith("nats://generator:")
    assert generator["HF_TOKEN"] == "hf_of_the_generator_alone"
    assert not {"DATABASE_URL", "HTTP_PORT", "ENCRYPTION_KEYS"} & set(generator)
    assert gateway["ENCRYPTION_KEYS"] == variables_of("gateway-1")["ENCRYPTION_KEYS"]


@pytest.mark.parametrize("name", ["gateway-1", "generator-1", "nats", "postgres", "envoy"])
def test_a_killed_process_is_restarted_and_reported(stack: Stack, notes: Notes, name: str) -> None:
    before = stack.processes[name].pid
    stack.processes[name].kill()
    stack.wait_until_ready()
    assert stack.processes[name].pid != before
    assert get(stack.port, "/readyz").status == 200
    log = stack.home / "logs" / f"{name}.log"
    assert any(
        sentence.startswith(f"{name} was ended by SIGKILL; starting it again in 0.1 s")
        and str(log) in sentence
        for sentence in notes.sentences
    )


def test_a_gateway_stopped_under_load_fails_no_request(stack: Stack) -> None:
    stop = threading.Event()
    statuses: dict[int | str, int] = {}

    def call() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", stack.port)) as connection:
            while not stop.is_set():
                try:
                    connection.request("GET", "/healthz")
                    answer = connection.getresponse()
                    answer.read()
                    outcome: int | str = answer.status
                except (OSError, http.client.HTTPException) as error:
                    outcome = repr(error)
                    connection.close()
                statuses[outcome] = statuses.get(outcome, 0) + 1
                stop.wait(0.05)

    callers = [threading.Thread(target=call) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for name in ("gateway-1", "gateway-2"):
            stack.restart(name)
            # The edge takes it back into service at its next check, not before.
            time.sleep(1)
    finally:
        stop.set()
        for caller in callers:
            caller.join()
    assert set(statuses) == {200}, statuses


def test_a_process_that_fails_to_start_is_named_with_its_last_log_lines(tmp_path: Path) -> None:
    broken = Service("generator", module="local.tests.broken")
    stack = Stack(
        tmp_path,
        servers={"nats"},
        services=[broken],
        environment={"PYTHONPATH": str(DEPLOY)},
    )
    with pytest.raises(CannotStart, match=r"(?s)generator-1 ended with status 1.*the reason why"):
        stack.start()
    assert not any(part.running for part in stack.processes.values())


def test_requests_in_progress_are_answered_before_the_edge_stops() -> None:
    answers = []
    with Stack(
        servers={"envoy"}, services=[ECHO], environment={"PYTHONPATH": str(DEPLOY)}
    ) as stack:
        caller = threading.Thread(target=lambda: answers.append(get(stack.port, "/slow/1")))
        caller.start()
        while stack.edge.active_requests() == 0:
            time.sleep(0.01)
    caller.join()
    assert [answer.status for answer in answers] == [200]
    assert answers[0].headers["connection"] == "close"


def test_a_process_that_keeps_crashing_is_restarted_with_back_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "RESTART_PAUSES_S", (0.0, 0.1, 0.2))
    monkeypatch.setattr(process, "STEADY_S", float("inf"))
    notes = Notes()
    with Stack(servers={"nats"}, services=(), report=notes) as stack:
        for _ in range(5):
            stack.processes["nats"].kill()
            stack.wait_until_ready("nats")
    pauses = [sentence.split("again in ")[1].split(" s")[0] for sentence in notes.sentences]
    assert pauses == ["0", "0.1", "0.2", "0.2", "0.2"]


def test_a_log_stays_bounded_while_its_program_writes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(process, "MAX_LOG_BYTES", 1000)
    log = tmp_path / "log"
    with log.open("ab") as writer:
        writer.write(b"first\n" * 200)
        writer.flush()
        process.rotate(log)
        writer.write(b"second\n")
    assert log.read_bytes() == b"second\n"
    assert (tmp_path / "log.1").read_bytes() == b"first\n" * 200


def test_a_home_of_another_user_is_not_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Stack(tmp_path, servers={"nats"}, services=()):
        pass
    owner = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    stack = Stack(tmp_path, servers={"nats"}, services=())
    with pytest.raises(CannotStart, match=rf"another user \(number {owner}\)"):
        stack.start()
    assert not stack.processes


def test_a_throwaway_stack_leaves_no_files() -> None:
    with Stack(servers={"nats"}, services=()) as stack:
        assert (stack.home / "secrets").exists()
    assert not stack.home.exists()
