"""A worker as KEDA starts it: exits after one job, or after IDLE_S without any."""

import asyncio
import os
import sys
from pathlib import Path

from common import bus, jobs
from common.contracts.measuring import MEASURE

IDLE_S = 5.0
JOB_S = 0.3


async def main() -> None:
    async with bus.connect(os.environ["NATS_URL"], "worker") as connection:
        try:
            async with asyncio.timeout(IDLE_S) as idle:
                async for delivery in jobs.pull(connection, MEASURE, "cpu"):
                    idle.reschedule(None)
                    async with delivery.heartbeat():
                        await asyncio.sleep(JOB_S)
                        with Path(sys.argv[1]).open("a") as log:
                            log.write(f"{delivery.id}\n")
                        await delivery.acknowledge()
                    break
        except TimeoutError:
            pass


asyncio.run(main())
