"""The sender: posts due deliveries, many at a time, until the process is stopped."""

import asyncio
from datetime import timedelta

import structlog

from common.background import Background, Repeated
from common.errors import ServiceError
from webhooks.deliveries import DeliveryStore, Parcel
from webhooks.post import Poster

log = structlog.get_logger()

MAX_AT_ONCE = 64
# Max delay in noticing an event that another replica stored, or the end of a pause.
LOOK_INTERVAL_S = 1.0
FORGET_INTERVAL_S = 600.0


class Sender:
    def __init__(self, deliveries: DeliveryStore, poster: Poster, retention: timedelta) -> None:
        self.deliveries = deliveries
        self.poster = poster
        self.retention = retention
        self.sending = Repeated(self._send_due, LOOK_INTERVAL_S)
        self.forgetting = Repeated(self._forget, FORGET_INTERVAL_S)
        self._attempts = Background()

    async def run(self) -> None:
        """Post due deliveries, and delete old events, until cancelled."""
        async with asyncio.TaskGroup() as together:
            together.create_task(self.sending.run())
            together.create_task(self.forgetting.run())

    async def finish(self) -> None:
        """Wait for the attempts in progress."""
        while attempts := [*self._attempts]:
            await asyncio.wait(attempts)

    async def _send_due(self) -> None:
        if free := max(MAX_AT_ONCE - len(self._attempts), 0):
            for parcel in await self.deliveries.take(free):
                self._attempts.start(self._try(parcel))

    async def _try(self, parcel: Parcel) -> None:
        posted = await self.poster.post(parcel.url, parcel.occurrence, parcel.body, parcel.secrets)
        try:
            await self.deliveries.record(parcel, posted)
        except ServiceError as error:  # it is due again once its lease expires
            log.warning("attempt not stored", delivery=parcel.occurrence, error=error.message)
        self.sending.wake()

    async def _forget(self) -> None:
        await self.deliveries.forget(self.retention)
