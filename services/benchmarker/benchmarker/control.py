"""What callers and workers ask of the benchmarker. No HTTP, no SQL, no torch."""

import asyncio
import contextlib

import nats.errors
import structlog

from benchmarker import outcome, plots
from benchmarker.cost import Prices
from benchmarker.refusals import class_for
from benchmarker.runs import Change, RunStore, new_id
from benchmarker.search import GRID
from benchmarker.upkeep import Posting, Upkeep
from common.bus import NatsBus
from common.context import Context, current
from common.contracts.benchmarking import (
    CANCELED,
    OVER,
    PROGRESSED,
    BenchmarkProgress,
    BenchmarkRequest,
    Failure,
    PlotRequest,
    Plots,
    Profile,
    ProfileRequest,
    Run,
    RunName,
    Runs,
    RunsRequest,
    RunWait,
)
from common.contracts.generation import GENERATE, GenerateRequest
from common.contracts.measuring import (
    MEASURE,
    Announcement,
    Class,
    End,
    Heard,
    Measurement,
    ModelAt,
    Report,
    Standing,
    Take,
    Ticket,
)
from common.contracts.monitoring import RECORD
from common.contracts.monitoring import Samples as MetricSamples
from common.errors import BenchmarkFailed, ServiceError, Unavailable
from common.jobs import Jobs

log = structlog.get_logger()

MOST_LISTED = 100
# How often a waiting caller's run is looked at although no news came: an event may be lost.
LOOK_AGAIN = 5.0


class Control:
    def __init__(
        self, bus: NatsBus, store: RunStore, jobs: Jobs, prices: Prices, deployed: set[Class]
    ) -> None:
        self.bus = bus
        self.store = store
        self.upkeep = Upkeep(store.database)
        self.jobs = jobs
        self.prices = prices
        self.deployed = deployed
        self._watched: dict[str, set[asyncio.Event]] = {}

    # Callers

    async def start(self, request: BenchmarkRequest) -> Run:
        """Accept a run; what can be known to fail is refused here, before it counts.

        The generator reads the Hub, so what it refuses is refused here in its words.
        """
        asked = GenerateRequest(model_url=request.model_id, revision=request.revision)
        model = (await self.bus.call(GENERATE, asked)).model
        worker_class = class_for(request, model, await self.upkeep.workers(), self.deployed)
        work = Measurement(
            id=new_id(),
            model=ModelAt(id=model.id, commit=model.commit, task=model.task, library=model.library),
            request=request,
        )
        total = request.iterations * len(request.batch_sizes or GRID)
        account, key = current.get().account, current.get().idempotency_key
        run, new = await self.store.accept(account, key, worker_class, work, total)
        if not new:
            return run
        await self._tell(Change(account, run))
        try:
            await self.post(Posting(work.id, worker_class, 0, None, work))
        except ServiceError as error:
            # The row is there: the sweep publishes it when the queue is back.
            log.warning("job not published yet", job=work.id, error=error.message)
        return run

    async def get(self, request: RunName) -> Run:
        return await self.store.get(current.get().account, request.id)

    async def newest(self, request: RunsRequest) -> Runs:
        limit = min(max(request.limit, 1), MOST_LISTED)
        runs = await self.store.newest(current.get().account, limit + 1, request.before)
        more = len(runs) > limit
        return Runs(runs=runs[:limit], next=runs[limit - 1].id if more else None)

    async def wait(self, request: RunWait) -> Run:
        """The run when it is over, or as it is after `seconds`."""
        news = asyncio.Event()
        watchers = self._watched.setdefault(request.id, set())
        watchers.add(news)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.seconds
        try:
            while True:
                news.clear()
                run = await self.store.get(current.get().account, request.id)
                left = deadline - loop.time()
                if run.state in OVER or left <= 0:
                    return run
                try:
                    async with asyncio.timeout(min(left, LOOK_AGAIN)):
                        await news.wait()
                except TimeoutError:
                    continue
        finally:
            watchers.discard(news)
            if not watchers:
                self._watched.pop(request.id, None)

    async def hear(self, progress: BenchmarkProgress) -> None:
        """Wake those who wait for a run, whichever replica has ended it."""
        if progress.state in OVER:
            for news in self._watched.get(progress.id, ()):
                news.set()

    async def cancel(self, request: RunName) -> Run:
        account = current.get().account
        change, sequence = await self.store.cancel(account, request.id)
        if change.run.state == "canceled":
            await self.bus.publish(CANCELED, request, account, request.id)
            if sequence is not None and change.run.started_at is None:
                await self.jobs.remove(sequence)
            await self._tell(change)
        return change.run

    async def plot(self, request: PlotRequest) -> Plots:
        run = await self.store.get(current.get().account, request.id)
        if run.results is None:
            raise BenchmarkFailed(
                f"the run is {run.state}: there is nothing to plot", status=422, reason=run.state
            )
        return Plots(plots=plots.draw(run.results, request.format))

    async def profile(self, request: ProfileRequest) -> Profile:
        return await self.store.profile(current.get().account, request)

    # Workers

    async def announce(self, announcement: Announcement) -> Heard:
        await self.upkeep.announce(announcement)
        return Heard()

    async def take(self, request: Take) -> Ticket:
        ticket, change = await self.store.take(request.id, request.worker)
        if change:
            await self._tell(change)
        return ticket

    async def report(self, report: Report) -> Standing:
        change = await self.store.report(report)
        if change and (report.samples or report.size):
            await self._tell(change)
        return Standing(run=change is not None)

    async def end(self, end: End) -> Heard:
        """Conclude a run, once: figures, analysis, cost, and the metrics that follow from them."""
        brought = await self.store.brought_in(end.id, end.worker)
        if brought is None:
            return Heard()
        concluded: outcome.Outcome | Failure
        records = []
        if end.error:
            concluded = end.error
        else:
            concluded = await asyncio.to_thread(outcome.conclude, brought, self.prices)
            if not isinstance(concluded, Failure):
                records = outcome.records(*concluded)
        change = await self.store.finish(end.id, end.worker, concluded, records)
        if change:
            log.info("run over", run=end.id, state=change.run.state)
            await self._tell(change)
        return Heard()

    # The queue

    async def post(self, posting: Posting) -> None:
        """Put a run's message into the queue; doing so twice puts one there."""
        sequence = await self.jobs.publish(
            MEASURE, posting.work, posting.worker_class, f"{posting.id}#{posting.number}"
        )
        await self.upkeep.posted(posting, sequence)

    async def sweep(self) -> int:
        """Publish again what the queue has lost.

        Returns:
            How many messages were published.
        """
        published = 0
        for posting in await self.upkeep.unfinished():
            current_posting: Posting | None = posting
            if posting.sequence is not None:
                if await self.jobs.holds(posting.sequence, posting.id):
                    continue
                log.warning("job lost by the queue", job=posting.id)
                current_posting = await self.upkeep.lost(posting)
            if current_posting is not None:
                await self.post(current_posting)
                published += 1
        return published

    async def deliver(self) -> int:
        """Hand the metrics service what is in the outbox; it counts what comes twice once.

        Returns:
            How many records it took.

        Raises:
            Unavailable: it is away; the rest stays for the next time.
        """
        letters = await self.upkeep.outbox()
        for letter in letters:
            token = current.set(Context(account=letter.account))
            try:
                await self.bus.call(RECORD, MetricSamples.from_records([letter.record]))
            except Unavailable:
                raise
            except ServiceError as error:
                log.error("metrics refused", run=letter.run_id, error=error.message)  # noqa: TRY400  (its words say all)
            finally:
                current.reset(token)
            await self.upkeep.delivered(letter)
        return len(letters)

    async def _tell(self, change: Change) -> None:
        run = change.run
        news = BenchmarkProgress(
            id=run.id,
            model_id=run.model_id,
            state=run.state,
            done=run.progress.done,
            total=run.progress.total,
        )
        # What it tells of is committed; whoever misses it looks again.
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.bus.publish(PROGRESSED, news, change.account, run.id)
