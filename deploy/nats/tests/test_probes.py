"""The readiness probe of a NATS server whose disk was full."""

import asyncio
import re
from pathlib import Path

import httpx2
import nats.errors
import pytest
from nats.js.api import StreamConfig

from common import bus
from integration import small_disk
from local import ports
from local.ports import HOST

MANIFEST = Path(__file__).parents[2] / "k8s" / "base" / "nats.yaml"


async def test_a_server_that_cannot_write_a_stream_is_unready_until_restarted(
    tmp_path: Path,
) -> None:
    [path] = re.findall(r"readinessProbe:.*path: \"?([^\s\",]+)", MANIFEST.read_text())
    [port] = ports.find(1)
    async with (
        small_disk.bus(tmp_path, options=["--http_port", str(port)]) as small,
        bus.connect(small.server.url("benchmarker"), "benchmarker") as connection,
        httpx2.AsyncClient(base_url=f"http://{HOST}:{port}", trust_env=False) as kubernetes,
    ):

        async def ready() -> bool:
            return (await kubernetes.get(path, timeout=30)).status_code == 200

        stream = connection.client.jetstream(timeout=1)
        await stream.add_stream(StreamConfig(name="JOBS", subjects=["job.>"]))
        assert await ready()
        ballast = small_disk.fill(small.disk)
        with pytest.raises(nats.errors.TimeoutError):
            await stream.publish("job.benchmarker.measure.cpu", b"la" * 50_000)
        async with asyncio.timeout(60):
            while await ready():
                await asyncio.sleep(0.1)
        ballast.unlink()
        assert not await ready()
        await small.stop()
        await small.start()
        async with asyncio.timeout(60):
            while not await ready():
                await asyncio.sleep(0.1)
