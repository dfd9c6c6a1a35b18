"""A worker's calls to control, retried while control restarts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from common.background import retry
from common.bus import Bus
from common.contracts import Rpc
from common.contracts.measuring import REPORT, Report
from common.errors import ServiceError, Unavailable

# Longest wait for control to become available again.
CONTROL_TIMEOUT_S = 120.0
# Pause between two attempts.
CONTROL_PAUSE_S = 1.0


class RunTaken(Exception):
    """A run that this worker no longer holds."""


async def call_control(bus: Bus, rpc: Rpc[Any, Any], request: Any) -> Any:
    """Call control, and retry while it is unavailable.

    Raises:
        Unavailable: control was unavailable for `CONTROL_TIMEOUT_S`.
    """
    return await retry(
        lambda: bus.call(rpc, request),
        Unavailable,
        waiting_for="control",
        pause_s=CONTROL_PAUSE_S,
        timeout_s=CONTROL_TIMEOUT_S,
    )


@asynccontextmanager
async def heartbeat(bus: Bus, beat: Report, interval_s: float) -> AsyncIterator[None]:
    """Send an empty report at an interval while the block runs, so that the run stays held."""

    async def send() -> None:
        while True:
            await asyncio.sleep(interval_s)
            with contextlib.suppress(ServiceError):
                await bus.call(REPORT, beat)

    sending = asyncio.create_task(send())
    try:
        yield
    finally:
        sending.cancel()
