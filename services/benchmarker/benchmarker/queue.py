"""The job queue, filled and repaired from the database."""

import structlog

from benchmarker.deliveries import Deliveries
from benchmarker.news import News
from benchmarker.postings import MAX_POSTINGS, Posting, Postings
from benchmarker.runs import Change
from common.bus import Bus
from common.context import Context
from common.contracts.benchmarking import CANCELED, Failure, RunName
from common.contracts.measuring import MEASURE, Class
from common.errors import ServiceError
from common.jobs import Jobs

log = structlog.get_logger()

CLASSES: tuple[Class, ...] = ("cpu", "gpu")


class JobQueue:
    def __init__(
        self,
        bus: Bus,
        jobs: Jobs,
        postings: Postings,
        deliveries: Deliveries,
        news: News,
        ack_wait_s: float,
    ) -> None:
        self.bus = bus
        self.jobs = jobs
        self.postings = postings
        self.deliveries = deliveries
        self.news = news
        self.ack_wait_s = ack_wait_s

    async def prepare(self) -> None:
        """Create the streams and consumers; wait for the server as long as necessary."""
        await self.jobs.prepare(MEASURE, CLASSES, ack_wait=self.ack_wait_s)

    async def declare(self) -> None:
        """Recreate streams and consumers that the server has lost. Raises Unavailable."""
        await self.jobs.declare(MEASURE, CLASSES, ack_wait=self.ack_wait_s)

    async def fill(self, worker_class: Class) -> int:
        """Post the messages that are due; return their number."""
        due = await self.postings.due(worker_class)
        for posting in due:
            work = posting.work
            sequence = await self.jobs.publish(
                MEASURE,
                work,
                posting.worker_class,
                f"{posting.id}#{posting.number}",
                Context(request_id=work.request_id, traceparent=work.traceparent),
            )
            await self.postings.record(posting, sequence)
        return len(due)

    async def fill_soon(self, worker_class: Class) -> None:
        """Like `fill`, but leaves it to the next sweep if the queue is unavailable."""
        try:
            await self.fill(worker_class)
        except ServiceError as error:
            log.warning("jobs not posted yet", worker_class=worker_class, error=error.message)

    async def withdraw(self, change: Change, sequence: int | None) -> None:
        """Stop the worker of a canceled run, or remove the run from the queue."""
        run = change.run
        if run.state != "canceled":
            return
        await self.bus.publish(CANCELED, RunName(id=run.id), change.account, run.id)
        if sequence is not None and run.started_at is None:
            await self.jobs.remove(sequence)
            await self.fill_soon(change.worker_class)
        await self.news.publish(change)

    async def repair(self) -> None:
        """Mark the messages that the queue has lost, so that `fill` posts them again."""
        for posting in await self.postings.posted(self.deliveries.hearing):
            assert posting.sequence is not None
            if await self.jobs.holds(posting.sequence, posting.id):
                continue
            log.warning("job lost by the queue", job=posting.id, number=posting.number)
            if posting.number + 1 >= MAX_POSTINGS:
                await self._fail(posting)
            else:
                await self.postings.lost(posting)

    async def _fail(self, posting: Posting) -> None:
        message = f"the queue lost the run's message {MAX_POSTINGS} times; start the run again"
        failure = Failure(code=1004, status=500, message=message, reason="lost")
        change = await self.deliveries.fail(posting.id, failure)
        if change:
            await self.news.publish(change)
