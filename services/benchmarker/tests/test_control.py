"""Acceptance of runs, with real control, generator, queue and database."""

import asyncio

import orjson
import psycopg
import pytest
from benchmark_caller import FACTS, MODEL, Caller, take_over
from test_analysis import setup as setup_of

from benchmarker.refusals import class_for
from common import bus
from common.context import Context, current
from common.contracts.benchmarking import (
    BENCHMARK,
    CANCEL_RUN,
    GET_RUN,
    LIST_RUNS,
    BenchmarkRequest,
    Failure,
    Run,
    RunName,
    RunsRequest,
)
from common.contracts.generation import GenerateRequest
from common.contracts.measuring import (
    ANNOUNCE,
    END,
    REPORT,
    SEARCHING,
    TAKE,
    Announcement,
    End,
    Report,
    Samples,
    SizeFacts,
    Take,
)
from common.contracts.verification import CANCEL_VERIFICATION, GET_VERIFICATION, VERIFY
from common.errors import (
    BenchmarkFailed,
    InvalidModel,
    InvalidRequest,
    ModelRefused,
    NotFound,
    RateLimited,
    ServiceError,
    Unavailable,
)


async def outcomes(caller: Caller, number: int) -> list[Run | BaseException]:
    return await asyncio.gather(*(caller.start() for _ in range(number)), return_exceptions=True)


async def test_five_of_twenty_simultaneous_runs_are_admitted_within_an_hour(waiting_caller) -> None:
    started = await outcomes(waiting_caller, 20)
    assert sum(isinstance(run, Run) for run in started) == 5
    refusals = [error for error in started if not isinstance(error, Run)]
    assert {type(error) for error in refusals} == {RateLimited}
    assert refusals[0].details["limit"] == 5
    assert 3500 < refusals[0].retry_after <= 3601
    # A run canceled before anything was measured does not count.
    run = next(run for run in started if isinstance(run, Run))
    await waiting_caller.call(CANCEL_RUN, RunName(id=run.id))
    again = await outcomes(waiting_caller, 3)
    assert sum(isinstance(run, Run) for run in again) == 1


@pytest.mark.parametrize("measured", [False, True])
async def test_a_run_that_failed_before_any_measurement_does_not_count(
    idle_stack, waiting_caller, *, measured: bool
) -> None:
    runs = [run for run in await outcomes(waiting_caller, 5) if isinstance(run, Run)]
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as connection:
        await connection.call(TAKE, Take(id=runs[0].id, worker="w/1"))
        if measured:
            block = Samples(batch_size=1, round=0, wall=[1_000_000])
            report = Report(id=runs[0].id, worker="w/1", samples=block)
            await connection.call(REPORT, report)
        failure = Failure(code=1004, status=422, message="it did", reason="load")
        await connection.call(END, End(id=runs[0].id, worker="w/1", error=failure))
    again = await outcomes(waiting_caller, 3)
    assert sum(isinstance(run, Run) for run in again) == (0 if measured else 1)
    for run in [*runs, *again]:
        if isinstance(run, Run):
            await waiting_caller.call(CANCEL_RUN, RunName(id=run.id))


@pytest.mark.parametrize(
    ("fields", "error", "expected"),
    [
        ({"model": "lilypad/no-such-model"}, InvalidModel, "no such model"),
        ({"model": "lilypad/tiny-unknown-task"}, ModelRefused, "task"),
        ({"model": "lilypad/pickled"}, BenchmarkFailed, "pickled weights only are not measured"),
        ({"model": "lilypad/tiny-super-resolution"}, BenchmarkFailed, "but not those of"),
        ({"model": "lilypad/packed-fp8"}, BenchmarkFailed, "quantized models"),
        ({"model": "lilypad/tiny-adapter"}, BenchmarkFailed, "models, adapters and ONNX files"),
        ({"model": "lilypad/tiny-onnx-classes"}, BenchmarkFailed, "ONNX files are not measured"),
        ({"device": "cuda"}, BenchmarkFailed, "no worker has cuda"),
        ({"attention": "flash_attention_2"}, BenchmarkFailed, "this run's is float32"),
        (
            {"model": "lilypad/tiny-unconditional-image-generation", "attention": "sdpa"},
            BenchmarkFailed,
            "leave it out",
        ),
    ],
)
async def test_a_run_that_no_worker_supports_is_refused_before_it_counts(
    idle_connection, fields, error, expected
) -> None:
    caller = Caller(idle_connection)
    for _ in range(6):  # more than the hourly limit
        with pytest.raises(error) as refused:
            await caller.start(**fields)
        assert expected in refused.value.message
    assert isinstance(await caller.start(), Run)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"batchSizes": [10**9]}, "batchSizes.0"),
        ({"batchSizes": [0]}, "batchSizes.0"),
        ({"batchSizes": []}, "batchSizes"),
        ({"batchSizes": [2, 2]}, "batchSizes"),
        ({"batchSizes": list(range(1, 34))}, "batchSizes"),
        ({"iterations": 10**9}, "iterations"),
        ({"warmup": -1}, "warmup"),
        ({"dtype": "float128"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"latencyBudgetMs": 0}, "latencyBudgetMs"),
    ],
)
async def test_the_refusal_of_a_field_out_of_range_names_the_field(
    waiting_caller, fields, path
) -> None:
    body = {"modelId": "lilypad/tiny-text-classification", **fields}
    # Unvalidated, as some clients send it.
    answer = await waiting_caller.bus.request(BENCHMARK.subject, orjson.dumps(body), 30)
    error = ServiceError.from_wire(orjson.loads(answer.data))
    assert isinstance(error, InvalidRequest)
    assert error.details["fields"][0]["path"] == path


def test_options_that_no_single_machine_combines_are_refused() -> None:
    machine = {"name": "CPU", "device_class": "cpu", "memory": 24_000.0, "dtypes": ["float32"]}
    both = [
        Announcement(worker="a", attentions=["eager"], compiles=False, **machine),
        Announcement(worker="b", attentions=["sdpa"], **machine),
    ]
    for fields in ({"attention": "eager"}, {"compile": True}):
        run_request = BenchmarkRequest(model_id=MODEL, **fields)
        assert class_for(run_request, FACTS, both, set()) == "cpu"
    run_request = BenchmarkRequest(model_id=MODEL, attention="eager", compile=True)
    with pytest.raises(BenchmarkFailed, match="no single worker supports"):
        class_for(run_request, FACTS, both, set())


@pytest.mark.parametrize(
    ("task", "options", "refused"),
    [
        ("text-classification", {"input_tokens": 128, "new_tokens": 64}, False),
        ("text-classification", {"input_tokens": 129}, True),
        ("text-generation", {"input_tokens": 112, "new_tokens": 16}, False),
        ("text-generation", {"input_tokens": 113, "new_tokens": 16}, True),
        ("text-generation", {"new_tokens": 128}, True),
    ],
)
def test_inputs_that_the_model_cannot_read_are_refused(
    task: str, options: dict[str, int], *, refused: bool
) -> None:
    request = BenchmarkRequest(model_id=MODEL, **options)
    model = FACTS.model_copy(update={"task": task, "max_tokens": 128})
    assert class_for(request, FACTS.model_copy(update={"task": task}), [], {"cpu"}) == "cpu"
    if not refused:
        assert class_for(request, model, [], {"cpu"}) == "cpu"
        return
    with pytest.raises(BenchmarkFailed, match="reads at most 128 tokens") as failed:
        class_for(request, model, [], {"cpu"})
    assert failed.value.details == {"reason": "tokens", "limit": 128}


async def test_a_repeated_request_returns_the_run_of_the_first_request(idle_connection) -> None:
    caller = Caller(idle_connection)
    request = BenchmarkRequest(model_id=MODEL)
    current.set(Context("req_test0000", caller.account, idempotency_key="f" * 64))
    runs = [await idle_connection.call(BENCHMARK, request) for _ in range(3)]
    assert len({run.id for run in runs}) == 1
    current.set(Context("req_test0000", Caller(idle_connection).account, idempotency_key="f" * 64))
    assert (await idle_connection.call(BENCHMARK, request)).id != runs[0].id


@pytest.mark.parametrize(("status", "again"), [(422, False), (500, True), (504, True)])
async def test_repeating_a_request_starts_another_run_only_if_the_first_failed_with_5xx(
    idle_stack, idle_connection, status: int, again: bool
) -> None:
    caller = Caller(idle_connection)
    request = BenchmarkRequest(model_id=MODEL)

    async def start() -> str:
        current.set(Context("req_test0000", caller.account, idempotency_key=f"{status}" * 20))
        return (await idle_connection.call(BENCHMARK, request)).id

    first = await start()
    assert await start() == first
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as connection:
        await connection.call(TAKE, Take(id=first, worker="w/1"))
        failure = Failure(code=1004, status=status, message="it did", reason="crashed")
        await connection.call(END, End(id=first, worker="w/1", error=failure))
    second = await start()
    assert (second != first) == again
    assert await start() == second
    await caller.call(CANCEL_RUN, RunName(id=second))


async def test_runs_wait_in_a_queue_and_are_listed_newest_first(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    first, second, third = [await caller.start() for _ in range(3)]
    assert second.queue.position > first.queue.position
    assert second.queue.estimate_seconds is None  # the start of a worker cannot be predicted
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as connection:
        machine = {"name": "CPU", "device_class": "cpu", "memory": 24_000.0, "dtypes": ["float32"]}
        await connection.call(ANNOUNCE, Announcement(worker="w", **machine))
    first, second = [await caller.call(GET_RUN, RunName(id=run.id)) for run in (first, second)]
    assert second.queue.estimate_seconds > first.queue.estimate_seconds
    page = await caller.call(LIST_RUNS, RunsRequest(limit=2))
    assert [run.id for run in page.runs] == [third.id, second.id]
    rest = await caller.call(LIST_RUNS, RunsRequest(limit=2, before=page.next))
    assert ([run.id for run in rest.runs], rest.next) == ([first.id], None)
    await caller.call(CANCEL_RUN, RunName(id=first.id))
    moved = await caller.call(GET_RUN, RunName(id=second.id))
    assert moved.queue.position < second.queue.position


async def test_a_finished_run_is_deleted_with_its_blocks_at_the_configured_age(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    old, kept, waiting = [await caller.start() for _ in range(3)]
    for run in (old, kept):
        await caller.call(CANCEL_RUN, RunName(id=run.id))
    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as database:
        database.execute("insert into blocks values (%s, 0, 1, 1, '[]')", [old.id])
        for run, days in ((old, 401), (kept, 399), (waiting, 401)):
            database.execute(
                "update runs set created_at = created_at - %(age)s * interval '1 day',"
                " finished_at = finished_at - %(age)s * interval '1 day' where id = %(id)s",
                {"age": days, "id": run.id},
            )
    async with asyncio.timeout(120):
        while old.id in (listed := await run_ids(caller)):
            await asyncio.sleep(0.05)
    assert {*listed} == {kept.id, waiting.id}
    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as database:
        assert not database.execute("select from blocks where run_id = %s", [old.id]).rowcount
    await caller.call(CANCEL_RUN, RunName(id=waiting.id))


async def run_ids(caller: Caller) -> list[str]:
    return [run.id for run in (await caller.call(LIST_RUNS, RunsRequest(limit=10))).runs]


async def test_only_silent_deliveries_without_progress_count_as_lost(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    run = await caller.start()

    async with bus.connect(idle_stack.nats.url("worker"), "worker") as connection:
        deliveries = 0

        async def take() -> int:
            nonlocal deliveries
            deliveries += 1
            return (await take_over(idle_stack, connection, run.id, f"w/{deliveries}")).lost

        async def report(**what) -> None:
            await connection.call(REPORT, Report(id=run.id, worker=f"w/{deliveries}", **what))

        for _ in range(7):  # like a worker that is being stopped
            assert await take() == 0
            await report(given_back=True)
        assert [await take() for _ in range(4)] == [0, 1, 2, 3]  # like killed workers
        await report(size=SizeFacts(batch_size=1))
        assert await take() == 1
        again = await connection.call(TAKE, Take(id=run.id, worker=f"w/{deliveries}"))
        assert again.lost == 1  # the worker repeats its request after a lost reply
    await caller.call(CANCEL_RUN, RunName(id=run.id))


async def test_a_delivery_that_restarts_a_run_without_progress_counts_as_lost(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    run = await caller.start()
    machines = [setup_of(), setup_of(dtype="bfloat16")]
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as connection:
        lost = []
        for attempt in range(6):
            worker = f"w/{attempt}"
            lost.append((await take_over(idle_stack, connection, run.id, worker)).lost)
            what = Report(id=run.id, worker=worker, setup=machines[attempt % 2])
            await connection.call(REPORT, what)
            size = SizeFacts(batch_size=1)
            await connection.call(REPORT, Report(id=run.id, worker=worker, size=size))
        assert lost == [0, 1, 2, 3, 4, 5]
    await caller.call(CANCEL_RUN, RunName(id=run.id))


async def test_a_worker_that_takes_a_run_again_is_told_the_stored_blocks_but_not_their_timings(
    idle_stack, idle_connection
) -> None:
    caller = Caller(idle_connection)
    run = await caller.start()
    async with bus.connect(idle_stack.nats.url("worker"), "worker") as connection:
        take = Take(id=run.id, worker="w/1")
        await connection.call(TAKE, take)
        for round in (1, 0, SEARCHING):
            samples = Samples(round=round, batch_size=2, wall=[1_000_000, 3_000_000])
            await connection.call(REPORT, Report(id=run.id, worker="w/1", samples=samples))
        ticket = await connection.call(TAKE, take)
    assert (ticket.blocks, ticket.looked) == ([(0, 2), (1, 2)], [(2, 2.0)])
    await caller.call(CANCEL_RUN, RunName(id=run.id))


async def test_a_verified_module_is_deleted_after_a_month(idle_stack, idle_connection) -> None:
    caller = Caller(idle_connection)
    request = GenerateRequest(model_url=MODEL, verify=True)
    old, new = [(await caller.call(VERIFY, request)).verification.id for _ in range(2)]
    run = await caller.start()
    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as connection:
        connection.execute(
            "update benchmarker.runs set created_at = now() - interval '31 days'"
            " where id in (%s, %s)",
            [old, run.id],
        )
    for _ in range(600):
        try:
            await caller.call(GET_VERIFICATION, RunName(id=old))
        except NotFound:
            break
        await asyncio.sleep(0.1)
    else:
        raise AssertionError("a module of 31 days ago is still there after 60 s")
    verification = await caller.call(GET_VERIFICATION, RunName(id=new))
    assert verification.verification.queue.position > 0
    assert (await caller.call(GET_RUN, RunName(id=run.id))).state == "queued"
    await caller.call(CANCEL_VERIFICATION, RunName(id=new))
    await caller.call(CANCEL_RUN, RunName(id=run.id))


async def test_a_full_queue_refuses_a_run_without_counting_it(idle_connection) -> None:
    refused = None
    while refused is None:
        caller = Caller(idle_connection)
        try:
            run = await caller.start()
            waiting = caller, run
        except Unavailable as error:
            refused = error
    assert (refused.code, refused.status) == (5003, 503)
    assert refused.retry_after
    other, run = waiting
    assert 0 < run.queue.position <= 40
    await other.call(CANCEL_RUN, RunName(id=run.id))
    assert isinstance(await caller.start(), Run)  # the queue has room again
