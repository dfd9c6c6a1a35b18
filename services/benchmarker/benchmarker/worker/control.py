"""A worker's calls to control, retried while control restarts."""

from typing import Any

from common.background import retry
from common.bus import Bus
from common.contracts import Rpc
from common.errors import Unavailable

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
