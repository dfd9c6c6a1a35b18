"""What callers and workers ask of the benchmarker. No HTTP, no SQL, no torch."""

import asyncio
import contextlib
from typing import Any

import nats.errors
import structlog

from benchmarker import outcome, plots, profiles, trials
from benchmarker.cost import Prices
from benchmarker.refusals import class_for, dtype_of, weights_of
from benchmarker.runs import Change, Kind, RunStore, measurement_of, new_id
from benchmarker.search import CALLS, GRID
from benchmarker.upkeep import Posting, Upkeep
from common.bus import NatsBus
from common.context import Context, current
from common.contracts import Event, Message
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
from common.contracts.verification import TRIED, Verdict, VerifiedModule
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
        # Measuring hands nothing on; who may use the model for what is not asked here.
        asked = GenerateRequest(
            model_url=request.model_id, revision=request.revision, accept=["license"]
        )
        model = (await self.bus.call(GENERATE, asked)).model
        worker_class = class_for(request, model, await self.upkeep.workers(), self.deployed)
        work = Measurement(
            id=new_id(),
            model=ModelAt(id=model.id, commit=model.commit, task=model.task, library=model.library),
            request=request,
            weights=weights_of(model, dtype_of(request, worker_class)),
        )
        total = request.iterations * len(request.batch_sizes or GRID)
        if request.batch_sizes is None:
            total += CALLS * len(GRID)
        account, key = current.get().account, current.get().idempotency_key
        run, new = await self.store.accept(account, key, worker_class, work, total)
        if new:
            await self._tell(Change(account, run))
            await self._post_soon(Posting(work.id, worker_class, 0, None, work))
        return run if new else await self.get(RunName(id=run.id))

    async def verify(self, request: GenerateRequest) -> VerifiedModule:
        """A module, and that a worker is to run it; what no worker can run is refused here."""
        module = await self.bus.call(GENERATE, request)
        worker_class = trials.class_for(module.model, await self.upkeep.workers(), self.deployed)
        work = trials.work_of(new_id("verify"), module, worker_class)
        account, key = current.get().account, current.get().idempotency_key
        run, new = await self.store.accept(account, key, worker_class, work, 1, module)
        if new:
            await self._post_soon(Posting(work.id, worker_class, 0, None, work))
        return await self.verification(RunName(id=run.id))

    async def verification(self, request: RunName) -> VerifiedModule:
        found = await self.store.row(current.get().account, request.id, "verify")
        return trials.describe(*found)

    async def wait_for_verification(self, request: RunWait) -> VerifiedModule:
        await self._until_over(request, "verify")
        return await self.verification(RunName(id=request.id))

    async def cancel_verification(self, request: RunName) -> VerifiedModule:
        await self._cancel(request, "verify")
        return await self.verification(request)

    async def _post_soon(self, posting: Posting) -> None:
        try:
            await self.post(posting)
        except ServiceError as error:
            # The row is there: the sweep publishes it when the queue is back.
            log.warning("job not published yet", job=posting.id, error=error.message)

    async def get(self, request: RunName) -> Run:
        return _drawn(*await self.store.row(current.get().account, request.id, "measure"))

    async def newest(self, request: RunsRequest) -> Runs:
        limit = min(max(request.limit, 1), MOST_LISTED)
        runs = await self.store.newest(current.get().account, limit + 1, request.before)
        more = len(runs) > limit
        return Runs(runs=runs[:limit], next=runs[limit - 1].id if more else None)

    async def wait(self, request: RunWait) -> Run:
        """The run when it is over, or as it is after `seconds`."""
        return _drawn(*await self._until_over(request, "measure"))

    async def _until_over(self, request: RunWait, kind: Kind) -> tuple[Run, dict[str, Any]]:
        news = asyncio.Event()
        watchers = self._watched.setdefault(request.id, set())
        watchers.add(news)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + request.seconds
        try:
            while True:
                news.clear()
                run, row = await self.store.row(current.get().account, request.id, kind)
                left = deadline - loop.time()
                if run.state in OVER or left <= 0:
                    return run, row
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
            await self.hear_tried(RunName(id=progress.id))

    async def hear_tried(self, run: RunName) -> None:
        for news in self._watched.get(run.id, ()):
            news.set()

    async def cancel(self, request: RunName) -> Run:
        await self._cancel(request, "measure")
        return await self.get(request)

    async def _cancel(self, request: RunName, kind: Kind) -> None:
        account = current.get().account
        change, sequence = await self.store.cancel(account, request.id, kind)
        if change.run.state == "canceled":
            await self.bus.publish(CANCELED, request, account, request.id)
            if sequence is not None and change.run.started_at is None:
                await self.jobs.remove(sequence)
            await self._tell(change)

    async def plot(self, request: PlotRequest) -> Plots:
        run, _ = await self.store.row(current.get().account, request.id, "measure")
        if run.results is None:
            raise BenchmarkFailed(
                f"the run is {run.state}: there is nothing to plot", status=422, reason=run.state
            )
        return Plots(plots=plots.draw(run.results, request.plot_format))

    async def profile(self, request: ProfileRequest) -> Profile:
        return await profiles.find(self.store.database, current.get().account, request)

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
        concluded: outcome.Outcome | Verdict | Failure | None = end.error or end.verdict
        records = []
        if concluded is None:
            concluded = await asyncio.to_thread(outcome.conclude, brought, self.prices)
            if isinstance(concluded, outcome.Outcome):
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
        """Publish again what the queue has lost, and forget what is over for long.

        Returns:
            How many messages were published.
        """
        await self.upkeep.forget_trials()
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
        if change.kind == "verify":
            if run.state in OVER:
                await self._publish(TRIED, RunName(id=run.id), change)
            return
        news = BenchmarkProgress(
            id=run.id,
            model_id=run.model_id,
            state=run.state,
            done=run.progress.done,
            total=run.progress.total,
        )
        await self._publish(PROGRESSED, news, change)

    async def _publish(self, event: Event[Any], news: Message, change: Change) -> None:
        # What it tells of is committed; whoever misses it looks again.
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.bus.publish(event, news, change.account, change.run.id)


def _drawn(run: Run, row: dict[str, Any]) -> Run:
    if run.results is None:
        return run
    style = measurement_of(row).request.plot_format
    return run.model_copy(update={"plots": plots.draw(run.results, style)})
