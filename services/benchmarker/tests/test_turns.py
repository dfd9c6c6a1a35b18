"""The order of the queue, and the estimated start of a waiting run."""

import psycopg
import pytest
from benchmark_caller import MODEL, Caller

from benchmarker.turns import remaining, starts_in
from common.contracts.benchmarking import CANCEL_RUN, GET_RUN, QUOTE, QuoteRequest, RunName
from common.errors import RateLimited


@pytest.mark.parametrize(
    ("elapsed_s", "measuring_s", "done", "total", "expected_s"),
    [
        (0, None, 0, 16, 30),  # the usual duration of its kind
        (10, None, 0, 16, 20),
        (10, None, 4, 16, 30),  # a quarter took ten seconds
        (45, None, 0, 16, 15),  # after more than 30 s, twice as long is expected
        (45, 20, 16, 16, 0),
        (26, 2, 1, 16, 30),  # it loaded for 24 s and measured one in two
    ],
)
def test_a_running_runs_remaining_time_follows_its_progress(
    elapsed_s, measuring_s, done, total, expected_s
) -> None:
    assert remaining(elapsed_s, measuring_s, done, total, 30) == expected_s


def test_waiting_runs_start_as_workers_become_free() -> None:
    assert starts_in([], [], workers=1) == 0
    assert starts_in([], [20, 5], workers=2) == 5
    assert starts_in([30], [20, 5], workers=2) == 20
    assert starts_in([30, 30, 30], [20], workers=2) == 50


@pytest.fixture
def empty_queue(idle_stack) -> None:
    """End the runs that other tests of the same stack left waiting."""
    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as connection:
        connection.execute(
            "update benchmarker.runs set state = 'canceled', finished_at = now()"
            " where state = 'queued'"
        )


@pytest.mark.usefixtures("empty_queue")
async def test_accounts_take_turns_however_many_runs_each_has_waiting(idle_connection) -> None:
    many, few = Caller(idle_connection), Caller(idle_connection)
    flood = [await many.start() for _ in range(5)]
    quote = await few.call(QUOTE, QuoteRequest(model_id=MODEL))
    one = await few.start()
    assert (quote.queue.position, quote.last) == (one.queue.position, None)
    second = await many.call(GET_RUN, RunName(id=flood[1].id))
    last = await many.call(GET_RUN, RunName(id=flood[-1].id))
    one = await few.call(GET_RUN, RunName(id=one.id))
    # Two messages of each class are queued in advance; the others follow by turns.
    assert one.queue.position < last.queue.position
    assert one.queue.position <= second.queue.position + 1
    for caller, run in ((few, one), *((many, run) for run in flood)):
        await caller.call(CANCEL_RUN, RunName(id=run.id))


@pytest.mark.usefixtures("empty_queue")
async def test_an_account_may_have_only_a_few_waiting_runs(idle_stack, idle_connection) -> None:
    caller = Caller(idle_connection)
    runs = [await caller.start() for _ in range(5)]
    with psycopg.connect(idle_stack.postgres.url("benchmarker")) as connection:
        connection.execute(
            "update benchmarker.runs set created_at = now() - interval '61 minutes'"
            " where account = %s",
            [caller.account],
        )
    with pytest.raises(RateLimited, match="may wait"):
        await caller.start()
    for run in runs:
        await caller.call(CANCEL_RUN, RunName(id=run.id))
