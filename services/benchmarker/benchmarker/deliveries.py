"""Deliveries of a run to workers: their start, reports and end.

While a run is running, only the delivery named in `holder` may report on it, and
only its silence lets another delivery take the run; a delivery that was
overtaken is told to stop. Time during which control could receive nothing is not silence.
A worker that stops in good order gives its run back. A delivery that ends in
silence is lost, and `lost` counts those in a row since the run last got further
than ever.
"""

import asyncio
import math
from dataclasses import dataclass
from typing import Any

from psycopg.types.json import Jsonb

from benchmarker.observation import Observation
from benchmarker.runs import (
    Change,
    Findings,
    change_of,
    findings,
    select,
    setup_of,
    sizes_of,
    to_json,
)
from common.bus import NatsBus
from common.contracts.benchmarking import Failure
from common.contracts.figures import Analysis, Results
from common.contracts.measuring import SEARCHING, Report, Samples, Ticket
from common.contracts.verification import Verdict
from common.postgres import Connection, Database

HELD = "where id = %s and holder = %s and state = 'running'"
# Whether a run's holder has reported lately, or control has only just begun to listen.
LIVE = """
(holder is not null and greatest(heard_at, now() - %(listened_s)s * interval '1 second')
    > now() - %(silence_s)s * interval '1 second')
"""
# Share of the queue's redelivery time after which a silent holder counts as lost.
SILENCE_SHARE = 2 / 3
FURTHER = """
with reached as (
    select (select coalesce(sum(calls), 0) from blocks where run_id = %(id)s)
        + (select count(*) from sizes where run_id = %(id)s)
        + (select cardinality(chosen) from runs where id = %(id)s) as steps
)
update runs set furthest = steps, lost = 0 from reached where id = %(id)s and steps > furthest
"""
# Calls that have been timed, and calls of sizes that never will be.
DONE = """
with counted as (
    select id, least(total,
        (select coalesce(sum(calls), 0) from blocks where run_id = runs.id)
        + (select count(*) from sizes where run_id = runs.id and facts ? 'shortage'
            and (batch_size = any(chosen)
                or work->'request'->'batchSizes' @> to_jsonb(batch_size)))
        * (work->'request'->>'iterations')::int) as steps
    from runs where id = %s
)
update runs set done = steps, heard_at = now(),
    progressed_at = case when steps > done then now() else progressed_at end
from counted where runs.id = counted.id
"""


@dataclass(frozen=True)
class Ending:
    """Outcome of a run, with the records for the metrics service."""

    outcome: tuple[Results, Analysis] | Verdict | Failure
    records: list[dict[str, Any]]


class Deliveries:
    def __init__(self, database: Database, bus: NatsBus, ack_wait_s: float) -> None:
        self.database = database
        self.bus = bus
        self.listening_at = math.inf
        self.silence_s = SILENCE_SHARE * ack_wait_s
        self.observation = Observation(database)

    def listen(self) -> None:
        """Count a worker as silent only from now on, since earlier reports were not received."""
        self.listening_at = asyncio.get_running_loop().time()

    @property
    def hearing(self) -> dict[str, float]:
        """The parameters of `LIVE`: for how long reports were received, and the longest silence."""
        since = max(self.listening_at, self.bus.connected_at)
        listened_s = max(asyncio.get_running_loop().time() - since, 0.0)
        return {"listened_s": listened_s, "silence_s": self.silence_s}

    async def take(self, id: str, worker: str) -> tuple[Ticket, Change | None]:
        """Assign a run to a delivery, unless another delivery holds it.

        A previous delivery that did not return the run counts as lost.
        """
        async with self.database.connection() as connection:
            rows = await select(
                connection,
                "where id = %s and state in ('queued', 'running') for update of runs",
                [id],
            )
            if not rows:
                return Ticket(run=False), None
            cursor = await connection.execute(
                "update runs set state = 'running', holder = %(worker)s, heard_at = now(),"  # noqa: S608  (constants)
                " lost = lost + (coalesce(holder, %(worker)s) <> %(worker)s)::int,"
                " started_at = coalesce(started_at, now()),"
                " resumed_from = done, progressed_at = null,"
                " stages = jsonb_build_object('fetching', now())"
                f" where id = %(id)s and (holder = %(worker)s or not coalesce({LIVE}, false))"
                " returning chosen, lost".encode(),
                {"worker": worker, "id": id, **self.hearing},
            )
            taken = await cursor.fetchone()
            if taken is None:
                return Ticket(run=False, held=True), None
            chosen, lost = taken
            self.observation.count_start(rows[0])
            # Timed blocks may be megabytes: the ticket only names them.
            cursor = await connection.execute(
                "select round, batch_size, case when round = %s then samples end"
                " from blocks where run_id = %s order by round, batch_size",
                [SEARCHING, id],
            )
            blocks = await cursor.fetchall()
            facts = await sizes_of(connection, id)
            rows = await select(connection, "where id = %s", [id])
            ticket = Ticket(
                run=True,
                setup=setup_of(rows[0]),
                blocks=[(round, size) for round, size, looked in blocks if looked is None],
                sizes=facts,
                looked=[
                    (size, Samples.model_validate(looked).mean)
                    for _, size, looked in blocks
                    if looked
                ],
                chosen=chosen,
                lost=lost,
            )
            return ticket, change_of(rows[0])

    async def report(self, report: Report) -> Change | None:
        """Store a delivery's report; return None if the delivery no longer holds the run."""
        async with self.database.connection() as connection:
            held = [report.id, report.worker]
            rows = await select(connection, f"{HELD} for update of runs", held)
            if not rows:
                return None
            if report.setup:
                before = setup_of(rows[0])
                if before and not before.like(report.setup):
                    await _restart(connection, report.id)
                await connection.execute(
                    "update runs set setup = %s where id = %s", [to_json(report.setup), report.id]
                )
            await _store_figures(connection, report, rows[0]["work"]["request"]["iterations"])
            if report.stage:
                await connection.execute(
                    "update runs set stages = stages || jsonb_build_object(%s::text, now())"
                    " where id = %s",
                    [report.stage, report.id],
                )
            if report.given_back:
                await connection.execute("update runs set holder = null where id = %s", [report.id])
            if report.samples or report.size or report.chosen is not None:
                await connection.execute(FURTHER.encode(), {"id": report.id})
            await connection.execute(DONE.encode(), [report.id])
            rows = await select(connection, "where id = %s", [report.id])
            return change_of(rows[0])

    async def findings(self, id: str, worker: str) -> Findings | None:
        """Return all reports of a run; None if this delivery no longer holds the run."""
        async with self.database.connection() as connection:
            rows = await select(connection, HELD, [id, worker])
            return await findings(connection, rows[0]) if rows else None

    async def finish(self, id: str, worker: str, ending: Ending) -> Change | None:
        """End a run with its outcome; return None if this delivery no longer holds the run."""
        return await self._end(HELD, [id, worker], ending)

    async def fail(self, id: str, failure: Failure) -> Change | None:
        """Fail a run that no worker will report on; return None if it has finished."""
        where = "where id = %s and state in ('queued', 'running')"
        return await self._end(where, [id], Ending(failure, []))

    async def _end(self, where: str, values: list[str], ending: Ending) -> Change | None:
        outcome = ending.outcome
        failed = isinstance(outcome, Failure)
        figures = outcome if isinstance(outcome, tuple) else (None, None)
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update runs set state = %s, finished_at = now(), holder = null,"  # noqa: S608  (constants)
                " done = case when %s then done else total end,"
                f" results = %s, analysis = %s, error = %s, verdict = %s {where}".encode(),
                [
                    "failed" if failed else "succeeded",
                    failed,
                    figures[0] and to_json(figures[0]),
                    figures[1] and to_json(figures[1]),
                    to_json(outcome) if isinstance(outcome, Failure) else None,
                    to_json(outcome) if isinstance(outcome, Verdict) else None,
                    *values,
                ],
            )
            if cursor.rowcount == 0:
                return None
            id = values[0]
            for record in ending.records:
                await connection.execute(
                    "insert into outbox (account, run_id, record)"
                    " select account, id, %s from runs where id = %s",
                    [Jsonb(record), id],
                )
            [row] = await select(connection, "where id = %s", [id])
            self.observation.count_end(row)
            return change_of(row)


async def _store_figures(connection: Connection, report: Report, iterations: int) -> None:
    if report.samples:
        samples = report.samples
        await connection.execute(
            "insert into blocks values (%s, %s, %s, %s, %s) on conflict do nothing",
            [
                report.id,
                samples.round,
                samples.batch_size,
                len(samples.wall),
                to_json(samples),
            ],
        )
    if report.size:
        await connection.execute(
            "insert into sizes values (%s, %s, %s) on conflict (run_id, batch_size)"
            " do update set facts = sizes.facts || excluded.facts",
            [report.id, report.size.batch_size, to_json(report.size, exclude_none=True)],
        )
    if report.chosen is not None:
        await connection.execute(
            "update runs set chosen = %(chosen)s, total = %(total)s + (select"
            " coalesce(sum(calls), 0) from blocks where run_id = runs.id"
            " and round = %(searching)s) where id = %(id)s",
            {
                "chosen": report.chosen,
                "total": iterations * len(report.chosen),
                "searching": SEARCHING,
                "id": report.id,
            },
        )


async def _restart(connection: Connection, id: str) -> None:
    """Discard a run's figures: they come from another machine, and a sample must not mix two."""
    await connection.execute("delete from blocks where run_id = %s", [id])
    await connection.execute("delete from sizes where run_id = %s", [id])
    await connection.execute("update runs set chosen = '{}', resumed_from = 0 where id = %s", [id])
