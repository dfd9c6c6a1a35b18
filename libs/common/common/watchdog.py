"""A watchdog: ends a process whose event loop hangs, so that its supervisor starts it again."""

import asyncio
import faulthandler
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# Handlers block the loop for less than a second, but a loaded machine may stall a process longer.
MAX_HANG_S = 30.0
BEAT_INTERVAL_S = 2.0


@asynccontextmanager
async def watch() -> AsyncIterator[None]:
    """End the process, and print its stacks, if its event loop hangs during the block."""

    async def beat() -> None:
        while True:
            faulthandler.dump_traceback_later(MAX_HANG_S, exit=True)
            await asyncio.sleep(BEAT_INTERVAL_S)

    beating = asyncio.create_task(beat())
    try:
        yield
    finally:
        beating.cancel()
        faulthandler.cancel_dump_traceback_later()
