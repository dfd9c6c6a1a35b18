"""Handlers of the requests about benchmark runs."""

from functools import partial

from benchmarker import plots, profiles
from benchmarker.admission import Application
from benchmarker.cost import Prices
from benchmarker.desk import MAX_WAITING_CALLERS, Desk
from benchmarker.outcome import conclude_canceled
from benchmarker.refusals import (
    check_packages,
    check_weights,
    class_for,
    dtype_of,
    wanted_class,
    weights_of,
)
from benchmarker.runs import Change, Row, measurement_of, new_id
from benchmarker.search import GRID, SEARCH_CALLS
from common.context import current
from common.contracts.address import parse
from common.contracts.benchmarking import (
    BENCHMARK,
    CANCEL_RUN,
    GET_RUN,
    LIST_RUNS,
    PLOT_RUN,
    PROFILE,
    QUOTE,
    RUN_LIMITS,
    WAIT_FOR_RUN,
    BenchmarkRequest,
    PlotRequest,
    Plots,
    Profile,
    ProfileRequest,
    Quote,
    QuoteRequest,
    Run,
    RunLimits,
    RunLimitsRequest,
    RunName,
    Runs,
    RunsRequest,
    RunWait,
)
from common.contracts.generation import GENERATE, GenerateRequest
from common.contracts.measuring import Measurement, ModelAt, version_for
from common.errors import BenchmarkFailed
from common.service import answers

MAX_LISTED = 100


class Benchmarks:
    def __init__(self, desk: Desk, prices: Prices) -> None:
        self.desk = desk
        self.prices = prices

    @answers(BENCHMARK)
    async def start(self, request: BenchmarkRequest) -> Run:
        """Accept a run, unless it is known to fail; a refused run does not count towards a limit.

        The generator reads the Hub; its refusals are passed on to the caller.
        """
        # Measuring does not distribute the model, so its licence does not matter.
        generation = GenerateRequest(
            model_url=request.model_id, revision=request.revision, accept=["license"]
        )
        module = await self.desk.bus.call(GENERATE, generation)
        model = module.model
        check_packages(module.files["requirements.txt"])
        check_weights(module.files["module.yaml"])
        worker_class = class_for(
            request, model, await self.desk.fleet.present(), self.desk.deployed
        )
        context = current.get()
        work = Measurement(
            id=new_id(),
            model=ModelAt(id=model.id, commit=model.commit, task=model.task, library=model.library),
            # The list of runs is searched by the revision, which the address may name instead.
            request=request.model_copy(
                update={"revision": parse(request.model_id, request.revision).revision}
            ),
            manifest=module.files["module.yaml"],
            read_by=model.read_by,
            version=version_for(model.read_by),
            weights=weights_of(model, dtype_of(request, worker_class)),
            request_id=context.request_id,
            traceparent=context.traceparent,
        )
        total = request.iterations * len(request.batch_sizes or GRID)
        if request.batch_sizes is None:
            total += SEARCH_CALLS * len(GRID)
        run, new = await self.desk.admission.accept(Application(context, worker_class, work, total))
        if new:
            await self.desk.news.publish(Change(context.account, run, "measure", worker_class))
            await self.desk.queue.fill_soon(worker_class)
        return run if new else await self.get(RunName(id=run.id))

    @answers(GET_RUN)
    async def get(self, request: RunName) -> Run:
        return _drawn(*await self._find(request.id))

    @answers(LIST_RUNS)
    async def newest(self, request: RunsRequest) -> Runs:
        """List runs. Raises InvalidModel for a `model_id` that is not the address of a model."""
        limit = min(max(request.limit, 1), MAX_LISTED)
        model = None if request.model_id is None else parse(request.model_id)
        account = current.get().account
        runs = await self.desk.runs.newest(account, limit + 1, request.before, model)
        more = len(runs) > limit
        return Runs(runs=runs[:limit], next=runs[limit - 1].id if more else None)

    @answers(WAIT_FOR_RUN, at_once=MAX_WAITING_CALLERS)
    async def wait(self, request: RunWait) -> Run:
        read = partial(self._find, request.id)
        return _drawn(*await self.desk.news.until_over(request.id, request.seconds, read))

    @answers(CANCEL_RUN)
    async def cancel(self, request: RunName) -> Run:
        """Cancel a run; the figures measured so far remain readable."""
        conclude = partial(conclude_canceled, prices=self.prices)
        change, sequence = await self.desk.runs.cancel(
            current.get().account, request.id, "measure", conclude
        )
        await self.desk.queue.withdraw(change, sequence)
        return await self.get(request)

    @answers(QUOTE)
    async def quote(self, request: QuoteRequest) -> Quote:
        """Return the expected wait and the latest run of the model; refuse an absent device."""
        present = {worker.device_class for worker in await self.desk.fleet.present()}
        worker_class = wanted_class(request.device, present | self.desk.deployed)
        return await self.desk.runs.quote(current.get(), worker_class, request.model_id)

    @answers(RUN_LIMITS)
    async def limits(self, _: RunLimitsRequest) -> RunLimits:
        return RunLimits(limits=await self.desk.admission.remaining(current.get().account))

    @answers(PLOT_RUN)
    async def plot(self, request: PlotRequest) -> Plots:
        run, _ = await self._find(request.id)
        if run.results is None:
            raise BenchmarkFailed(
                f"the run is {run.state} and has no results to plot", status=422, reason=run.state
            )
        return Plots(plots=plots.draw(run.results, request.plot_format))

    @answers(PROFILE)
    async def profile(self, request: ProfileRequest) -> Profile:
        return await profiles.find(self.desk.runs.database, current.get().account, request)

    async def _find(self, id: str) -> tuple[Run, Row]:
        return await self.desk.runs.find(current.get().account, id, "measure")


def _drawn(run: Run, row: Row) -> Run:
    if run.results is None:
        return run
    style = measurement_of(row).request.plot_format
    return run.model_copy(update={"plots": plots.draw(run.results, style)})
