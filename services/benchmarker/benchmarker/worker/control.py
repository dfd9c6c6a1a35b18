"""A worker's calls to control, retried while control restarts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from common.background import alongside, retry
from common.bus import Bus
from common.contracts import Rpc
from common.contracts.measuring import REPORT, Report
from common.errors import Unavailable

# Longest wait for control to become available again.
CONTROL_TIMEOUT_S = 120.0
# Pause between two attempts.
CONTROL_PAUSE_S = 1.0
# Heartbeats within the time after which a job is redelivered. Control counts a run as silent after
# two thirds of it, so that the run stays held although two heartbeats in a row fail.
BEATS_PER_ACK_WAIT = 6


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
    """Send an empty report at a fixed rate while the block runs, so that the run stays held.

    A report that control does not answer within `interval_s` does not delay the next one.
    """
    now = asyncio.get_running_loop().time
    due_s = now()

    async def send() -> None:
        nonlocal due_s
        due_s = max(due_s + interval_s, now())
        await asyncio.sleep(due_s - now())
        try:
            async with asyncio.timeout(interval_s):
                await bus.call(REPORT, beat)
        except TimeoutError:
            raise Unavailable("control did not answer a heartbeat") from None

    async with alongside(send, every_s=0):
        yield
