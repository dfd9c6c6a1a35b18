"""Probes of a service that has no other HTTP port, as a kubelet sends them."""

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import httpx2
import pytest

from common import probe
from local import ports


@pytest.mark.parametrize(
    ("path", "there", "declared", "status"),
    [
        ("/livez", True, True, 200),
        ("/livez", False, False, 200),
        ("/readyz", True, True, 200),
        ("/readyz", False, True, 503),
        ("/readyz", True, False, 503),
        ("/anything", True, True, 404),
    ],
)
async def test_readiness_unlike_liveness_needs_the_bus_and_its_streams(
    path: str, there: bool, declared: bool, status: int
) -> None:
    (port,) = ports.find(1)
    bus: Any = SimpleNamespace(available=there)
    probed = probe.serve(port, bus, needs=[lambda: declared])
    async with probed, httpx2.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}{path}")
    assert answer.status_code == status


async def test_a_malformed_request_closes_only_its_own_connection() -> None:
    (port,) = ports.find(1)
    bus: Any = SimpleNamespace(available=True)
    async with probe.serve(port, bus), httpx2.AsyncClient() as http:
        for garbage in (b"\r\n\r\n", b"x" * 100_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(garbage)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        assert (await http.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
