"""The sweep: makes the queue agree with the database, delivers metrics, deletes old trials."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from benchmarker.news import News
from benchmarker.outbox import Outbox
from benchmarker.queue import CLASSES, JobQueue
from benchmarker.runs import RunStore
from common.errors import ServiceError

log = structlog.get_logger()

# A tried module is about 45 kB.
TRIAL_RETENTION = timedelta(days=30)


class Upkeep:
    def __init__(self, queue: JobQueue, outbox: Outbox, runs: RunStore, news: News) -> None:
        self.queue = queue
        self.outbox = outbox
        self.runs = runs
        self.news = news

    async def keep(self, interval_s: float) -> None:
        """Sweep for ever; a step that fails leaves the others and the next sweep alone."""
        while True:
            for step in (
                self.mend_queue,
                self.deliver_metrics,
                self.delete_old_trials,
                self.observe,
            ):
                await _attempt(step)
            await asyncio.sleep(interval_s)

    async def mend_queue(self) -> None:
        await self.queue.declare()
        await self.queue.repair()
        for worker_class in CLASSES:
            await self.queue.fill(worker_class)

    async def deliver_metrics(self) -> None:
        for run in await self.outbox.deliver():
            await self.news.publish(await self.runs.change(run))

    async def observe(self) -> None:
        await self.queue.deliveries.observation.read()

    async def delete_old_trials(self) -> None:
        async with self.runs.database.connection() as connection:
            await connection.execute(
                "delete from runs where kind = 'verify' and created_at < now() - %s",
                [TRIAL_RETENTION],
            )


async def _attempt(step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except ServiceError as error:  # a dependency is unavailable: the next sweep tries again
        log.warning("sweep incomplete", step=step.__name__, error=error.message)
    except Exception:
        log.exception("sweep step failed", step=step.__name__)
