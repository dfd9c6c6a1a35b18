"""`make run` as a user sees it: messages, cleanup, and recovery of an earlier run's data."""

import base64
import contextlib
import errno
import fcntl
import json
import os
import pty
import re
import runpy
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hub.testing import default_models_dir
from local import ports
from local.__main__ import check_hub
from local.process import CannotStart
from local.stack import Stack
from local.tests.conftest import DEPLOY
from local.tests.http1 import get


class Run:
    """A running `python -m local run` and its descendants."""

    def __init__(self, home: Path, port: int) -> None:
        self.home = home
        self.port = port
        self.process = _start(home, port)
        self.output = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            if "Ctrl-C" in line:
                break
        self.started = psutil.Process(self.process.pid).children(recursive=True)
        self.shared = [file for child in self.started for file in _shared_memory(child)]

    def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        rest, _ = self.process.communicate()
        self.output += rest
        return self.process.returncode

    def left(self) -> list[str]:
        """Wait for the end; return the remaining processes and files."""
        _, alive = psutil.wait_procs(self.started, timeout=60)
        pids = {child.pid for child in self.started}
        segments = [
            f"System V shared memory of {fields[4]}"
            for fields in map(str.split, Path("/proc/sysvipc/shm").read_text().splitlines()[1:])
            if int(fields[4]) in pids
        ]
        files = [self.home / "postgres" / "postmaster.pid", *map(Path, self.shared)]
        return [
            *map(str, alive),
            *segments,
            *(str(file) for file in files if file.exists()),
            *([] if ports.free(self.port) else [f"port {self.port}"]),
        ]


def _shared_memory(process: psutil.Process) -> list[str]:
    try:
        files = [mapping.path for mapping in process.memory_maps()]
    except psutil.NoSuchProcess:  # some of PostgreSQL's own come and go
        return []
    return [file for file in files if file.startswith("/dev/shm/")]


def _start(home: Path, port: int | str) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "LILYPAD_HOME": str(home),
        "PORT": str(port),
        "PYTHONPATH": str(DEPLOY),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "local", "run"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(home: Path) -> Iterator[Run]:
    (port,) = ports.find(1)
    run = Run(home, port)
    try:
        yield run
    finally:
        if run.process.poll() is None:
            run.end(signal.SIGTERM)


def refusal(home: Path, port: int | str) -> str:
    """Return the single sentence that a refused start prints."""
    process = _start(home, port)
    output, complaint = process.communicate()
    assert (process.returncode, output) == (1, "")
    assert complaint.startswith("Not started: ")
    assert len(complaint.splitlines()) == 1
    return complaint


@pytest.mark.long
def test_a_start_after_a_killed_supervisor_recovers_and_ctrl_c_stops_in_order(
    tmp_path: Path,
) -> None:
    account = {"email": "someone@example.com", "password": "a long enough password"}
    basic = base64.b64encode(f"{account['email']}:{account['password']}".encode()).decode()
    with running(tmp_path / "home") as run:
        key = get(
            run.port,
            "/v1/api/accounts",
            "Content-Type: application/json",
            method="POST",
            body=json.dumps(account).encode(),
        )
        assert key.status == 201
        (port,) = ports.find(1)
        refused = refusal(tmp_path / "home", port)
        assert str(tmp_path) in refused
        assert "already runs" in refused
        assert get(run.port, "/readyz").status == 200
        assert len(run.started) >= 7
        for service in ("webhooks", "worker"):  # which log before they have a connection
            log = (run.home / "logs" / f"{service}-1.log").read_text()
            for line in log.rpartition("\n")[0].splitlines():
                assert json.loads(line)["service"] == service
        assert run.end(signal.SIGKILL) == -signal.SIGKILL
    assert run.left() == []
    with running(tmp_path / "home") as run:
        keys = get(run.port, "/v1/api/keys", f"Authorization: Basic {basic}")
        assert keys.status == 200
        assert run.end(signal.SIGINT) == 0
    assert run.left() == []
    assert run.output.endswith("stopped\n")
    for part in ("nats", "postgres", "envoy", "gateway-1", "gateway-2", "generator-1"):
        assert re.search(rf"✓ {part} +\d+\.\d s", run.output)
    assert f"http://127.0.0.1:{run.port}" in run.output
    assert "\x1b" not in run.output


def test_an_occupied_port_is_reported_with_advice(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        refused = refusal(tmp_path, port)
        assert f"port {port} is taken" in refused
        advised = re.search(r"PORT=(\d+) make run", refused)
        assert advised
        assert ports.free(int(advised[1]))
    assert not (tmp_path / "postgres").exists()


def test_an_occupied_port_65535_is_reported_with_advice_for_another(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        if ports.free(65535):
            stack.enter_context(socket.create_server(("127.0.0.1", 65535)))
        refused = refusal(tmp_path, 65535)
    advised = re.search(r"PORT=(\d+) make run", refused)
    assert advised
    assert int(advised[1]) < 65535


def test_a_privileged_port_is_distinguished_from_an_occupied_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ports, "obstacle", lambda port: errno.EACCES if port == 80 else 0)
    with Stack(port=0, servers=(), services=()) as stack:
        stack.servers, stack.port = {"envoy"}, 80
        with pytest.raises(CannotStart, match=r"root alone.*PORT=1024 make run"):
            stack._check_port()
        stack.servers = set()


@pytest.mark.parametrize("hub", ["foo", "huggingface.co", "file:///x"])
def test_an_invalid_hub_address_is_refused_in_a_sentence(
    tmp_path: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub)
    (port,) = ports.find(1)
    assert f"HF_ENDPOINT={hub} is not an address" in refusal(tmp_path / "home", port)


def test_an_empty_hub_address_means_the_default() -> None:
    environment = {"HF_ENDPOINT": "", "HF_TOKEN": "x"}
    check_hub(environment)
    assert environment == {"HF_TOKEN": "x"}


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "80 80"])
def test_an_invalid_port_is_refused_in_a_sentence(tmp_path: Path, port: str) -> None:
    assert "1 to 65535" in refusal(tmp_path, port)


def test_a_home_directory_that_cannot_be_used_is_refused_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    (port,) = ports.find(1)
    assert str(file) in refusal(file / "home", port)


def test_an_old_interpreter_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    check = str(DEPLOY / "local" / "check_machine.py")
    runpy.run_path(check)
    monkeypatch.setattr(sys, "version_info", (3, 8, 10, "final", 0))
    with pytest.raises(SystemExit, match=r"Python 3\.11 or newer is needed.*is 3\.8"):
        runpy.run_path(check)


def press_keys(command: list[str], environment: dict[str, str], until: str) -> tuple[str, int]:
    """Press Ctrl-C on a program's terminal; return its output and exit status."""
    terminal, child_side = pty.openpty()
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=child_side,
        stdout=child_side,
        stderr=child_side,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  (no thread runs)
    )
    os.close(child_side)
    output, pressed = "", False
    with contextlib.suppress(OSError):  # it has closed the terminal
        while more := os.read(terminal, 65536).decode(errors="replace"):
            output += more
            if until in output and not pressed:
                pressed = True
                os.write(terminal, b"\x03")
    os.close(terminal)
    return output, process.wait()


@pytest.mark.parametrize("until", ["make a small real model", "start PostgreSQL"])
def test_ctrl_c_on_the_demonstration_stops_all_of_it_without_a_traceback(
    tmp_path: Path, until: str
) -> None:
    environment = {
        **os.environ,
        "LILYPAD_HOME": str(tmp_path),
        "PORT": str(ports.find(1)[0]),
        "PYTHONPATH": f"{DEPLOY}:{DEPLOY.parent / 'tests'}",
        "TERM": "xterm",
    }
    # The models are made once for all tests.
    default_models_dir().mkdir(parents=True, exist_ok=True)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "models").symlink_to(default_models_dir())
    before = set(psutil.pids())
    output, status = press_keys([sys.executable, "-m", "local.demo"], environment, until)
    assert "Traceback" not in output
    assert "stopped" in output
    assert status == 0
    home = str(tmp_path)
    left = [p for p in psutil.process_iter(["pid", "cmdline"]) if p.pid not in before]
    assert not [p for p in left if home in " ".join(p.info["cmdline"] or [])]


def test_a_demonstration_on_an_occupied_port_fails_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "local.demo"],
            env={
                **os.environ,
                "LILYPAD_HOME": str(tmp_path),
                "PORT": str(port),
                "PYTHONPATH": f"{DEPLOY}:{DEPLOY.parent / 'tests'}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert re.fullmatch(rf"Failed: port {port} is taken .* PORT=\d+ make demo\n", done.stderr)
    assert not (tmp_path / "demo" / "models").exists()
