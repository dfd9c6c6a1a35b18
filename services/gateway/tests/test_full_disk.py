"""Limits while the disk of the bus is full, and afterwards."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from nats.js.api import StorageType

from common import bus
from common.errors import Unavailable
from gateway.limits import Limits
from gateway.windows import Policy
from integration import small_disk
from local import ports
from local.credentials import Credentials
from local.nats import Nats
from local.process import Process, Report, wait_until_ready


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk.mounted(tmp_path / "disk") as folder:
        yield folder


async def test_a_full_disk_of_the_bus_moves_counts_to_memory_until_its_restart(
    disk: Path, tmp_path: Path
) -> None:
    [port] = ports.find(1)
    server = Nats(disk / "nats", port, Credentials(tmp_path / "secrets"))
    process = Process(server.program(), tmp_path / "nats.log", Report())
    process.start()
    try:
        await asyncio.to_thread(wait_until_ready, [process], Report())
        async with bus.connect(server.url("gateway"), "gateway") as connection:
            limits = Limits(connection, [Policy("generate", 5, costly=True)])
            await limits.start()
            stream = connection.client.jetstream()

            async def storage() -> StorageType | None:
                return (await stream.stream_info("LIMITS_60")).config.storage

            async def admit(account: str) -> None:
                """Count a request as soon as the counters are there."""
                while True:
                    try:
                        await limits.admit(account, ["generate"])
                    except Unavailable:
                        await asyncio.sleep(0.1)
                    else:
                        return

            assert await storage() == StorageType.FILE
            ballast = small_disk.fill(disk)
            number = 0
            async with asyncio.timeout(120):
                while await storage() == StorageType.FILE:  # the last page takes some counts
                    await admit(f"acc_{number}")
                    number += 1
                await admit("acc_later")
            ballast.unlink()
            await asyncio.to_thread(process.stop)
            process.start()
            await asyncio.to_thread(wait_until_ready, [process], Report())
            await admit("acc_again")
            assert await storage() == StorageType.FILE
    finally:
        await asyncio.to_thread(process.stop)
