"""Workers' reports: heartbeats, taken runs and measurements."""

import asyncio
import contextlib

import structlog

from benchmarker import outcome
from benchmarker.cost import Prices
from benchmarker.deliveries import Deliveries, Ending
from benchmarker.fleet import Fleet
from benchmarker.news import News
from benchmarker.outbox import Outbox
from benchmarker.queue import JobQueue
from benchmarker.runs import Findings, RunStore
from benchmarker.sealing import seal
from common.contracts.hub import HUB_TOKEN, HubTokenRequest
from common.contracts.measuring import (
    ANNOUNCE,
    END,
    REPORT,
    TAKE,
    Announcement,
    End,
    Received,
    Report,
    ReportReply,
    Take,
    Ticket,
)
from common.errors import InvalidRequest, ServiceError
from common.service import answers

log = structlog.get_logger()


class Reports:
    def __init__(
        self,
        runs: RunStore,
        deliveries: Deliveries,
        fleet: Fleet,
        outbox: Outbox,
        queue: JobQueue,
        news: News,
        prices: Prices,
    ) -> None:
        self.runs = runs
        self.deliveries = deliveries
        self.fleet = fleet
        self.outbox = outbox
        self.queue = queue
        self.news = news
        self.prices = prices

    @answers(ANNOUNCE)
    async def announce(self, announcement: Announcement) -> Received:
        await self.fleet.record(announcement)
        return Received()

    @answers(TAKE)
    async def take(self, request: Take) -> Ticket:
        needs_token = await self.runs.needs_own_token(request.id)
        if needs_token and not request.sealing_key:
            # An old worker, which gives the job back. All workers can read what goes to one.
            raise InvalidRequest(
                "the run needs its account's Hub token, which is sent sealed only:"
                " update the worker, or send sealing_key"
            )
        ticket, change = await self.deliveries.take(request.id, request.worker)
        if change and needs_token and request.sealing_key:
            owner = HubTokenRequest(account=change.account)
            token = (await self.queue.bus.call(HUB_TOKEN, owner)).token
            sealed = token and seal(token, request.sealing_key)
            ticket = ticket.model_copy(update={"sealed_hub_token": sealed})
        if change:
            await self.news.publish(change)
            await self.queue.fill_soon(change.worker_class)
        return ticket

    @answers(REPORT)
    async def report(self, report: Report) -> ReportReply:
        change = await self.deliveries.report(report)
        if change and (report.samples or report.size or report.stage):
            await self.news.publish(change)
        return ReportReply(run=change is not None)

    @answers(END)
    async def end(self, end: End) -> Received:
        """Finish a run once: store its results and analysis, and record its metrics."""
        findings = await self.deliveries.findings(end.id, end.worker)
        if findings is None:
            return Received()
        ending = await self._conclude(end, findings)
        change = await self.deliveries.finish(end.id, end.worker, ending)
        if change is None:
            return Received()
        log.info("run finished", run=end.id, failed=change.run.state == "failed")
        if not ending.records:
            await self.news.publish(change)
        with contextlib.suppress(ServiceError):  # the sweep delivers the rest of the outbox
            for run in await self.outbox.deliver(end.id):
                await self.news.publish(await self.runs.change(run))
        return Received()

    async def _conclude(self, end: End, findings: Findings) -> Ending:
        conclusion = end.error or end.verdict
        if conclusion:
            return Ending(conclusion, [])
        concluded = await asyncio.to_thread(outcome.conclude, findings, self.prices)
        if isinstance(concluded, outcome.Outcome):
            return Ending(concluded, outcome.records(*concluded))
        return Ending(concluded, [])
