"""The order of waiting runs: tenants take turns.

Runs whose message is already in the queue come first, in the queue's order. The
others follow by turn: every tenant's first run before any tenant's second,
running ones included. A tenant is an account, or all new accounts of one
network address.
"""

import heapq
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from psycopg.rows import namedtuple_row

from common.context import Context
from common.contracts.benchmarking import Queue
from common.postgres import Connection

# A worker that has not announced itself for this long is absent.
MAX_HEARTBEAT_AGE = timedelta(seconds=60)
# Assumed duration of a run until one of its kind has succeeded.
ASSUMED_DURATION_S = 30.0
# A late run is assumed to need this share of its elapsed time more.
LATE_SHARE = 0.25
# When the run's last delivery began.
DELIVERED_AT = "coalesce((stages->>'fetching')::timestamptz, started_at)"
TENANT = "coalesce(nullif(tenant, ''), account)"
# Waiting and running runs of a class, each with its turn and its position in the queue.
TURNS = f"""
with numbered as (
    select id, kind, state, sequence, created_at, {TENANT} as tenant,
        total - done as steps_left, done - resumed_from as steps_done,
        extract(epoch from now() - {DELIVERED_AT})::float as elapsed_s,
        extract(epoch from
            progressed_at - coalesce((stages->>'measuring')::timestamptz, {DELIVERED_AT})
        )::float as measured_s,
        extract(epoch from now() - progressed_at)::float as since_progress_s,
        row_number() over (
            partition by {TENANT} order by state = 'queued', created_at, id
        ) as turn
    from runs
    where worker_class = %(worker_class)s and state in ('queued', 'running')
), turns as (
    select *, row_number() over (
        order by state <> 'queued', sequence nulls last, turn, created_at, id
    ) as position
    from numbered
)
"""  # noqa: S608  (constants)
DURATIONS = """
select kind, avg(extract(epoch from finished_at - started_at))::float from (
    select kind, started_at, finished_at,
        row_number() over (partition by kind order by finished_at desc) as newness
    from runs where worker_class = %s and state = 'succeeded'
) as ended where newness <= 20 group by kind
"""


def tenant_of(caller: Context) -> str:
    """Return the name under which the queue counts a caller's runs."""
    return caller.tenant or caller.account


async def place(connection: Connection, worker_class: str, id: str) -> Queue:
    """Return a waiting run's place in the queue, and its estimated start."""
    runs = await _runs(connection, worker_class)
    waiting = [run for run in runs if run.waits]
    position = next((n for n, run in enumerate(waiting, 1) if run.id == id), 1)
    return await _queue(connection, worker_class, runs, waiting[: position - 1])


async def next_place(connection: Connection, worker_class: str, tenant: str) -> Queue:
    """Return the place in the queue that a new run of the tenant would have."""
    runs = await _runs(connection, worker_class)
    turn = 1 + sum(run.tenant == tenant for run in runs)
    ahead = [run for run in runs if run.waits and (run.posted or run.turn <= turn)]
    return await _queue(connection, worker_class, runs, ahead)


async def _runs(connection: Connection, worker_class: str) -> list[Any]:
    """Return the waiting and running runs of a class, in the order of their turns."""
    async with connection.cursor(row_factory=namedtuple_row) as cursor:
        await cursor.execute(
            f"{TURNS} select *, state = 'queued' as waits, sequence is not null as posted"  # noqa: S608  (constants)
            " from turns order by position".encode(),
            {"worker_class": worker_class},
        )
        return await cursor.fetchall()


async def _queue(
    connection: Connection, worker_class: str, runs: list[Any], ahead: list[Any]
) -> Queue:
    """Return the place of a run behind the waiting runs `ahead`; `runs` has all of the class."""
    cursor = await connection.execute(DURATIONS.encode(), [worker_class])
    durations_s: dict[str, float] = dict(await cursor.fetchall())
    present = await workers_present(connection, worker_class)
    estimate_s = None  # when a worker starts is unknown
    if present:
        remaining_s = [
            remaining(run, durations_s.get(run.kind, ASSUMED_DURATION_S))
            for run in runs
            if not run.waits
        ]
        ahead_s = [durations_s.get(run.kind, ASSUMED_DURATION_S) for run in ahead]
        estimate_s = round(starts_in(ahead_s, remaining_s, present), 1)
    return Queue(position=len(ahead) + 1, estimate_seconds=estimate_s)


async def workers_present(connection: Connection, worker_class: str) -> int:
    cursor = await connection.execute(
        "select count(*) from workers where worker_class = %s and seen_at > now() - %s",
        [worker_class, MAX_HEARTBEAT_AGE],
    )
    [present] = await cursor.fetchone() or (0,)
    return int(present)


def remaining(run: Any, usual_s: float) -> float:
    """Estimate the seconds until a running run ends, by its progress once it has some.

    Fetching and loading take most of a short run and are no part of its progress, so that only
    the time since its last delivery began to measure is extrapolated.
    """
    if run.since_progress_s is None or run.steps_done <= 0:
        return left(usual_s, run.elapsed_s or 0.0)
    step_s = max(run.measured_s, 0.0) / run.steps_done
    return left(step_s * run.steps_left, run.since_progress_s)


def left(expected_s: float, elapsed_s: float) -> float:
    """Return the seconds left of an expected duration; once it is exceeded, a share of the elapsed.

    A run that takes longer than expected delays the runs behind it steadily, without a jump.
    """
    return max(expected_s - elapsed_s, LATE_SHARE * elapsed_s)


def starts_in(ahead_s: Iterable[float], remaining_s: Sequence[float], workers: int) -> float:
    """Return the seconds until a worker is free for a run behind `ahead_s`.

    Args:
        ahead_s: durations of the waiting runs ahead, in their order.
        remaining_s: remaining seconds of each running run.
        workers: number of workers present, at least one per running run.
    """
    free_s = [*remaining_s, *[0.0] * max(workers - len(remaining_s), 0)]
    heapq.heapify(free_s)
    for duration_s in ahead_s:
        heapq.heapreplace(free_s, free_s[0] + duration_s)
    return free_s[0]
