"""The periodic sweep: queue repair, delivery of metrics, deletion of old runs."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from benchmarker.news import News
from benchmarker.outbox import Outbox
from benchmarker.queue import CLASSES, JobQueue
from benchmarker.runs import RunStore
from common.errors import ServiceError

log = structlog.get_logger()

# Runs of a kind that one sweep deletes: a tried module is about 45 kB, and a run has its blocks.
MAX_DELETED = 1_000
DELETE_TRIALS = """
delete from runs where id in (
    select id from runs where kind = 'verify' and created_at < now() - %s * interval '1 day'
    limit %s
)
"""
DELETE_RUNS = """
delete from runs where id in (
    select id from runs where kind = 'measure' and finished_at < now() - %s * interval '1 day'
    limit %s
)
"""


class Upkeep:
    """The periodic sweep.

    Args:
        run_days: age at which ended runs are deleted, with their blocks.
        trial_days: age at which tried modules are deleted.
    """

    def __init__(
        self, queue: JobQueue, outbox: Outbox, runs: RunStore, news: News, *, run_days: int,
        trial_days: int,
    ) -> None:  # fmt: skip
        self.queue = queue
        self.outbox = outbox
        self.runs = runs
        self.news = news
        self.run_days = run_days
        self.trial_days = trial_days

    async def keep(self, interval_s: float) -> None:
        """Sweep until cancelled; a failed step does not prevent the others."""
        while True:
            for step in (
                self.mend_queue,
                self.deliver_metrics,
                self.delete_old_runs,
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

    async def delete_old_runs(self) -> None:
        async with self.runs.database.connection() as connection:
            await connection.execute(DELETE_TRIALS, [self.trial_days, MAX_DELETED])
            await connection.execute(DELETE_RUNS, [self.run_days, MAX_DELETED])


async def _attempt(step: Callable[[], Awaitable[None]]) -> None:
    try:
        await step()
    except ServiceError as error:  # a dependency is unavailable: the next sweep tries again
        log.warning("sweep incomplete", step=step.__name__, error=error.message)
    except Exception:
        log.exception("sweep step failed", step=step.__name__)
