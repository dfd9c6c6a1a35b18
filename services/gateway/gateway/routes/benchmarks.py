"""Benchmark runs: started, waited for, looked up, canceled, drawn."""

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
from common.contracts.monitoring import DRAWN, PlotFormat
from common.errors import BenchmarkFailed
from gateway import envelope
from gateway.endpoint import Answer, Call, Endpoint
from gateway.waiting import LONGEST_WAIT, PREFER, preferred, until


class Style(Message):
    plot_format: PlotFormat = DRAWN


def endpoints(bus: Bus) -> list[Endpoint]:
    async def benchmark(call: Call, body: BenchmarkRequest) -> Answer:
        """Measure a model at some batch sizes.

        v1 answers when the run is over. With `Prefer: respond-async` it answers
        202 at once, and with `Prefer: wait=<seconds>` after so long at the
        latest; so it does where a run takes longer than two minutes. The run's
        address is then in `Location`. v2 always answers 202 at once. Ten answers
        of an account are held; more are given at once.
        """
        run = await bus.call(BENCHMARK, body)
        seconds = preferred(call)
        if call.version == "v2":
            seconds = 0.0
        run = await _wait(bus, call, run, LONGEST_WAIT if seconds is None else seconds)
        if run.state not in OVER:
            return _answer(call, run, 202)
        _check(run)
        return _answer(call, run, 200)

    async def get_benchmark(call: Call, _: None) -> Run:
        """A run as it is now. `Prefer: wait=<seconds>` holds the answer until it is over."""
        run = await bus.call(GET_RUN, RunName(id=call.path_parameter("id")))
        return await _wait(bus, call, run, preferred(call) or 0.0)

    async def list_benchmarks(_: Call, query: RunsRequest) -> Runs:
        """The account's runs, newest first, without results."""
        return await bus.call(LIST_RUNS, query)

    async def cancel_benchmark(call: Call, _: None) -> Run:
        """End a run; one that is over stays as it is."""
        return await bus.call(CANCEL_RUN, RunName(id=call.path_parameter("id")))

    async def plot_benchmark(call: Call, query: Style) -> Plots:
        """A run's plots alone, in any format."""
        request = PlotRequest(id=call.path_parameter("id"), plot_format=query.plot_format)
        return await bus.call(PLOT_RUN, request)

    tag = "Benchmarking"
    return [
        Endpoint(
            method="POST",
            path="/benchmark",
            handler=benchmark,
            allows="benchmark",
            body=BenchmarkRequest,
            reply=Run,
            errors=(404, 422, 429, 502),
            idempotent=True,
            later=True,
            parameters=(PREFER,),
            summary="Measure a model",
            tag=tag,
        ),
        Endpoint(
            method="GET",
            path="/benchmark",
            handler=list_benchmarks,
            query=RunsRequest,
            allows="benchmark",
            reply=Runs,
            summary="List runs",
            tag=tag,
        ),
        Endpoint(
            method="GET",
            path="/benchmark/{id}",
            handler=get_benchmark,
            parameters=(PREFER,),
            allows="benchmark",
            reply=Run,
            errors=(404,),
            summary="Look at a run",
            tag=tag,
        ),
        Endpoint(
            method="DELETE",
            path="/benchmark/{id}",
            handler=cancel_benchmark,
            allows="benchmark",
            reply=Run,
            errors=(404,),
            summary="Cancel a run",
            tag=tag,
        ),
        Endpoint(
            method="GET",
            path="/benchmark/{id}/plot",
            handler=plot_benchmark,
            query=Style,
            allows="benchmark",
            reply=Plots,
            errors=(404, 422),
            summary="Draw a run",
            tag=tag,
        ),
    ]


async def _wait(bus: Bus, call: Call, run: Run, seconds: float) -> Run:
    async def look(left: float) -> Run:
        return await bus.call(WAIT_FOR_RUN, RunWait(id=run.id, seconds=left))

    return await until(call, run, lambda found: found.state in OVER, look, seconds)


def _check(run: Run) -> None:
    """Raises BenchmarkFailed for a run that did not end well."""
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
