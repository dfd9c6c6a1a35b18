"""Detection of reconnections to the bus, which may have missed events."""

import asyncio
from collections.abc import Callable

import nats.errors
import structlog

from common.bus import NatsBus

log = structlog.get_logger()

POLL_INTERVAL_S = 0.5


async def watch(bus: NatsBus, forget: Callable[[], None]) -> None:
    """Call `forget` after each reconnection, until cancelled."""
    known = bus.client.stats["reconnects"]
    while True:
        await asyncio.sleep(POLL_INTERVAL_S)
        count = bus.client.stats["reconnects"]
        if count == known or not bus.client.is_connected:
            continue
        try:
            # What is read from now on is followed by events: the server knows the subscriptions.
            await bus.flush()
        except (nats.errors.Error, OSError, RuntimeError, TimeoutError):
            continue  # the connection is lost again
        known = count
        forget()
        log.info("caches forgotten: events may have been missed")
