"""The service as deployed: on a real bus, with a test Hub."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common import bus
from common.contracts.generation import GENERATE, PACKAGE, GenerateRequest
from common.errors import InvalidModel, ModelRefused, Unavailable
from hub.testing import RunningHub


@pytest.fixture
def url() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    program = shutil.which("nats-server", path=str(Path(sys.executable).parent)) or "nats-server"
    server = subprocess.Popen([program, "-a", "127.0.0.1", "-p", port], stderr=subprocess.DEVNULL)
    yield f"nats://127.0.0.1:{port}"
    server.terminate()
    server.wait()


async def test_the_service_answers_on_the_bus_and_stops_on_a_signal(
    url: str, hub: RunningHub
) -> None:
    environment = {**os.environ, "NATS_URL": url, "HF_ENDPOINT": hub.url}
    service = subprocess.Popen(
        [sys.executable, "-m", "generator"], env=environment, stderr=subprocess.DEVNULL
    )
    try:
        async with bus.connect(url, "test") as caller:
            request = GenerateRequest(model_url="lilypad/tiny-text-classification")
            while True:
                try:
                    module = await caller.call(GENERATE, request)
                except Unavailable:
                    await asyncio.sleep(0.1)
                else:
                    break
            package = await caller.call(PACKAGE, request)
            assert module.model.commit[:12] in package.filename
            with pytest.raises(InvalidModel):
                await caller.call(GENERATE, GenerateRequest(model_url="https://evil/a/b"))
            with pytest.raises(ModelRefused) as caught:
                await caller.call(GENERATE, GenerateRequest(model_url="lilypad/tiny-pickle"))
            assert caught.value.details["reason"] == "pickle-only"
    finally:
        service.terminate()
        assert service.wait() == 0


def test_an_invalid_setting_stops_the_start_with_a_readable_error() -> None:
    environment = {**os.environ, "HF_ENDPOINT": "file:///etc/passwd"}
    done = subprocess.run(
        [sys.executable, "-m", "generator"], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("HF_ENDPOINT:")
    assert "passwd" not in done.stderr
