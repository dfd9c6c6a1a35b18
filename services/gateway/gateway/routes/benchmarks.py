"""Routes of benchmark runs, and their answers."""

from common.bus import Bus
from common.contracts import Message
from common.contracts.benchmarking import (
    BENCHMARK,
    CANCEL_RUN,
    GET_RUN,
    LIST_RUNS,
    OVER,
    PLOT_RUN,
    WAIT_FOR_RUN,
    BenchmarkRequest,
    PlotRequest,
    Plots,
    Run,
    RunName,
    Runs,
    RunsRequest,
    RunWait,
)
from common.contracts.monitoring import PLOT_FORMAT, PlotFormat
from common.errors import BenchmarkFailed
from gateway import envelope
from gateway.door import Guards
from gateway.endpoint import Answer, Call, Route, always
from gateway.tenants import set_tenant
from gateway.waiting import MAX_WAIT_S, PREFER, preferred, until


class Style(Message):
    plot_format: PlotFormat = PLOT_FORMAT


class BenchmarkRoutes:
    """Routes that start, list, return, cancel and plot runs."""

    tag = "Benchmarking"

    def __init__(self, bus: Bus, guards: Guards) -> None:
        self.bus = bus
        self.guards = guards

    @Route(
        "POST",
        "/benchmark",
        summary="Measure a model",
        allows="benchmark",
        body=BenchmarkRequest,
        reply=Run,
        errors=(404, 422, 429, 502),
        idempotent=True,
        joins=always,
        kind=lambda _: "benchmark",
        later=True,
        parameters=(PREFER,),
    )
    async def benchmark(self, call: Call, body: BenchmarkRequest) -> Answer:
        """Measure a model at some batch sizes.

        v1 answers when the run has finished. It answers 202, with the run's address
        in `Location`, at once with `Prefer: respond-async`, after at most that
        time with `Prefer: wait=<seconds>`, and otherwise after two minutes. v2
        always answers 202 at once. At most ten answers of an account are held;
        others are sent at once. A retry with the same `Idempotency-Key` during
        the run gets the run's address.
        """
        await set_tenant(self.guards.accounts.database, call.account)
        run = await self.bus.call(BENCHMARK, body)
        # A retry while the run is under way gets its address, and can wait there.
        seconds = 0.0 if call.joining and preferred(call) is None else preferred(call)
        if call.version == "v2":
            seconds = 0.0
        run = await _wait(self.bus, call, run, MAX_WAIT_S if seconds is None else seconds)
        if run.state not in OVER:
            return _answer(call, run, 202)
        _check(run)
        return _answer(call, run, 200)

    @Route(
        "GET",
        "/benchmark",
        summary="List runs",
        allows="benchmark",
        query=RunsRequest,
        reply=Runs,
    )
    async def list_benchmarks(self, _: Call, query: RunsRequest) -> Runs:
        """List the account's runs, or those of one model, newest first, without results."""
        return await self.bus.call(LIST_RUNS, query)

    @Route(
        "GET",
        "/benchmark/{id}",
        summary="Get a run",
        allows="benchmark",
        reply=Run,
        errors=(404,),
        parameters=(PREFER,),
    )
    async def get_benchmark(self, call: Call, _: None) -> Run:
        """Return a run. `Prefer: wait=<seconds>` holds the answer until the run ends."""
        run = await self.bus.call(GET_RUN, RunName(id=call.path_parameter("id")))
        return await _wait(self.bus, call, run, preferred(call) or 0.0)

    @Route(
        "DELETE",
        "/benchmark/{id}",
        summary="Cancel a run",
        allows="benchmark",
        reply=Run,
        errors=(404,),
    )
    async def cancel_benchmark(self, call: Call, _: None) -> Run:
        """Cancel a run; a finished run stays as it is."""
        return await self.bus.call(CANCEL_RUN, RunName(id=call.path_parameter("id")))

    @Route(
        "GET",
        "/benchmark/{id}/plot",
        summary="Plot a run",
        allows="benchmark",
        query=Style,
        reply=Plots,
        errors=(404, 422),
    )
    async def plot_benchmark(self, call: Call, query: Style) -> Plots:
        """Return only the plots of a run, in any format."""
        request = PlotRequest(id=call.path_parameter("id"), plot_format=query.plot_format)
        return await self.bus.call(PLOT_RUN, request)


async def _wait(bus: Bus, call: Call, run: Run, seconds: float) -> Run:
    async def poll(left: float) -> Run:
        return await bus.call(WAIT_FOR_RUN, RunWait(id=run.id, seconds=left))

    return await until(call, run, lambda latest: latest.state in OVER, poll, seconds)


def _check(run: Run) -> None:
    """Raise BenchmarkFailed for a run that failed or was canceled."""
    if run.error is not None:
        raise BenchmarkFailed(
            run.error.message, status=run.error.status, reason=run.error.reason, id=run.id
        )
    if run.state == "canceled":
        raise BenchmarkFailed("the run was canceled", reason="canceled", id=run.id)


def _answer(call: Call, run: Run, status: int) -> Answer:
    headers = {"Location": f"/{call.version}/api/benchmark/{run.id}"} if status == 202 else {}
    return Answer(
        envelope.success(run, call.version, call.request_id), status=status, headers=headers
    )
