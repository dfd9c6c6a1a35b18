"""Limits while the disk of the bus is full, and afterwards."""

import asyncio
from pathlib import Path

from nats.js.api import StorageType

from common import bus
from common.errors import Unavailable
from gateway.limits import Limits
from gateway.windows import Policy
from integration import small_disk


async def test_a_full_disk_of_the_bus_moves_counts_to_memory_until_its_restart(
    tmp_path: Path,
) -> None:
    async with (
        small_disk.bus(tmp_path) as small,
        bus.connect(small.server.url("gateway"), "gateway") as connection,
    ):
        limits = Limits(connection, [Policy("generate", 5, costly=True)])
        await limits.start()
        stream = connection.client.jetstream()

        async def storage() -> StorageType | None:
            return (await stream.stream_info("LIMITS_60")).config.storage

        async def admit(account: str) -> None:
            """Count a request as soon as the counters are available."""
            while True:
                try:
                    await limits.admit(account, ["generate"])
                except Unavailable:
                    await asyncio.sleep(0.1)
                else:
                    return

        assert await storage() == StorageType.FILE
        ballast = small_disk.fill(small.disk)
        number = 0
        async with asyncio.timeout(120):
            while await storage() == StorageType.FILE:  # the last page takes some counts
                await admit(f"acc_{number}")
                number += 1
            await admit("acc_later")
        ballast.unlink()
        await small.stop()
        await small.start()
        await admit("acc_again")
        assert await storage() == StorageType.FILE
