"""A periodic round trip over the bus, which detects a subscription that stopped receiving."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import nats.errors
import structlog

from common.bus import NatsBus
from realtime.slots import Slots, alive_subject

log = structlog.get_logger()

# Time between round trips, the longest one may take, and the age at which the last is stale.
BEAT_S, BEAT_TIMEOUT_S, STALE_S = 0.5, 2.0, 3.0
# A process that is connected but receives nothing for this long ends: the supervisor starts
# another, and its clients connect to another replica meanwhile.
DEAF_S = 15.0
# A failure that comes this much later than it should means that this process itself was stopped.
MAX_STALL_S = 2.0
# Publishers' clocks may be behind ours by this much.
CLOCK_MARGIN = timedelta(seconds=2)


class Heartbeat:
    """Periodic requests of this replica to itself.

    Args:
        bus: the connection to check.
        slots: hold this replica's id, and are notified of a new connection.
        lost: called after a reconnection, with the time since when events may be missing.
    """

    def __init__(self, bus: NatsBus, slots: Slots, lost: Callable[[datetime], None]) -> None:
        self.bus = bus
        self.slots = slots
        self.lost = lost
        self.last_s = -STALE_S
        self._last = datetime.now(UTC)
        self._connections = 0

    @property
    def is_fresh(self) -> bool:
        return self.bus.client.is_connected and time.monotonic() - self.last_s < STALE_S

    async def beat(self) -> None:
        """Make a round trip every `BEAT_S` until cancelled.

        Raises:
            RuntimeError: the bus is connected, but delivers nothing.
        """
        subject = alive_subject(self.slots.owner)
        # Time and connection of the first failure in a row: a process that was itself stopped is
        # not deaf when it resumes.
        first_failure: tuple[float, int] | None = None
        looked_s = time.monotonic()
        while True:
            try:
                await self.bus.client.request(subject, b"", timeout=BEAT_TIMEOUT_S)
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("no round trip over the bus", error=repr(error))
                now_s, connections = time.monotonic(), self.bus.client.stats["reconnects"]
                stalled = now_s - looked_s > BEAT_S + BEAT_TIMEOUT_S + MAX_STALL_S
                if first_failure is None or first_failure[1] != connections or stalled:
                    first_failure = now_s, connections
                if self.bus.client.is_connected and now_s - first_failure[0] > DEAF_S:
                    raise RuntimeError("connected to the bus, but it delivers nothing") from None
            else:
                first_failure = None
                self._notice_reconnection()
                self.last_s = time.monotonic()
                self._last = datetime.now(UTC)
            looked_s = time.monotonic()
            await asyncio.sleep(BEAT_S)

    def _notice_reconnection(self) -> None:
        connections = self.bus.client.stats["reconnects"]
        if connections != self._connections:
            self._connections = connections
            self.slots.connected_since_s = time.monotonic()
            self.lost(self._last - CLOCK_MARGIN)
