"""Benchmark runs: started, waited for, looked up, canceled, drawn."""

import asyncio
import re
from urllib.parse import parse_qs

from common.bus import Bus
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
from common.errors import BenchmarkFailed, InvalidRequest, Unavailable
from gateway import envelope
from gateway.endpoint import Answer, Call, Endpoint

# The edge gives up on a request after 120 s; an answer has to be under way before.
LONGEST_WAIT = 115.0
# One question to the benchmarker is held so long at most, in seconds.
LONGEST_QUESTION = 15.0
WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*(\d{1,9})\b", re.IGNORECASE)
FORMATS = ("plotly", "vega-lite", "series")
PREFER = {
    "name": "Prefer",
    "in": "header",
    "description": "`respond-async`, or `wait=<seconds>`.",
    "schema": {"type": "string"},
}
LIMIT = {
    "name": "limit",
    "in": "query",
    "schema": {"type": "integer", "minimum": 1, "maximum": 100, "default": 20},
}
BEFORE = {
    "name": "before",
    "in": "query",
    "description": "The id that the last page gave as `next`.",
    "schema": {"type": "string"},
}
FORMAT = {"name": "format", "in": "query", "schema": {"enum": list(FORMATS), "default": "plotly"}}
ASYNC = re.compile(r"(?:^|[,;\s])respond-async\b", re.IGNORECASE)


def endpoints(bus: Bus) -> list[Endpoint]:
    async def benchmark(call: Call, body: BenchmarkRequest) -> Answer:
        """Measure a model at some batch sizes.

        v1 answers when the run is over. With `Prefer: respond-async` it answers
        202 at once, and with `Prefer: wait=<seconds>` after so long at the
        latest; so it does where a run takes longer than two minutes. The run's
        address is then in `Location`. v2 always answers 202 at once.
        """
        run = await bus.call(BENCHMARK, body)
        prefer = call.headers.get(b"prefer", b"").decode("latin-1")
        seconds = _seconds(prefer) if call.version == "v1" else 0.0
        run = await _wait(bus, run, seconds)
        if run.state not in OVER:
            return _answer(call, run, 202)
        _check(run)
        return _answer(call, run, 200)

    async def get_benchmark(call: Call, _: None) -> Run:
        """A run as it is now. `Prefer: wait=<seconds>` holds the answer until it is over."""
        run = await bus.call(GET_RUN, RunName(id=call.path_parameter("id")))
        prefer = call.headers.get(b"prefer", b"").decode("latin-1")
        return await _wait(bus, run, _seconds(prefer)) if WAIT.search(prefer) else run

    async def list_benchmarks(call: Call, _: None) -> Runs:
        """The account's runs, newest first, without results; `limit` to 100, `before` an id."""
        query = parse_qs(call.scope["query_string"].decode("latin-1"))
        limit = query.get("limit", ["20"])[0]
        if not limit.isdecimal() or not 1 <= int(limit[:9]) <= 100:
            raise InvalidRequest("limit: a number from 1 to 100", fields=[_field("limit")])
        before = query.get("before", [None])[0]
        return await bus.call(LIST_RUNS, RunsRequest(limit=int(limit), before=before))

    async def cancel_benchmark(call: Call, _: None) -> Run:
        """End a run; one that is over stays as it is."""
        return await bus.call(CANCEL_RUN, RunName(id=call.path_parameter("id")))

    async def plot_benchmark(call: Call, _: None) -> Plots:
        """Throughput, latency, memory and cost against batch size.

        `format` is `plotly` (a figure as plain JSON), `vega-lite` or `series`.
        """
        query = parse_qs(call.scope["query_string"].decode("latin-1"))
        style = query.get("format", ["plotly"])[0]
        if style not in FORMATS:
            raise InvalidRequest("format: plotly, vega-lite or series", fields=[_field("format")])
        request = PlotRequest(id=call.path_parameter("id"), format=style)
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
            parameters=(LIMIT, BEFORE),
            allows="benchmark",
            reply=Runs,
            errors=(400,),
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
            parameters=(FORMAT,),
            allows="benchmark",
            reply=Plots,
            errors=(400, 404, 422),
            summary="Draw a run",
            tag=tag,
        ),
    ]


def _seconds(prefer: str) -> float:
    """How long the caller wants to wait, as far as the edge lets it (RFC 7240)."""
    asked = WAIT.search(prefer)
    if asked:
        return min(float(asked[1]), LONGEST_WAIT)
    return 0.0 if ASYNC.search(prefer) else LONGEST_WAIT


async def _wait(bus: Bus, run: Run, seconds: float) -> Run:
    """The run when it is over, or as it is after so long; the benchmarker holds the question."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while run.state not in OVER and (left := deadline - loop.time()) > 0:
        question = RunWait(id=run.id, seconds=min(left, LONGEST_QUESTION))
        try:
            run = await bus.call(WAIT_FOR_RUN, question)
        except Unavailable:
            return run  # the run goes on without this caller, who finds it under its address
    return run


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


def _field(path: str) -> dict[str, str]:
    return {"path": path, "message": "not one of the allowed values"}
