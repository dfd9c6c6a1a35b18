"""Runs as rows: accepted within the limits, moved from state to state, never two ways at once.

    queued -> running -> succeeded | failed
    queued | running -> canceled

A run that is over does not change any more. While it runs, only the delivery
named in `holder` may report; a delivery that was overtaken is told to stop.
One that stops in good order gives the run back. One that does not was lost,
and `lost` counts how many were so since the run last got further than ever.
"""

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from benchmarker.upkeep import PRESENT
from common.contracts import Message
from common.contracts.benchmarking import Failure, Progress, Queue, Run
from common.contracts.figures import Analysis, Results, Setup
from common.contracts.generation import Module
from common.contracts.measuring import (
    SEARCHING,
    Class,
    Measurement,
    Report,
    Samples,
    SizeFacts,
    Ticket,
)
from common.contracts.verification import Verdict
from common.errors import NotFound, RateLimited, Unavailable
from common.postgres import Connection, Database

OWN = "where id = %s and account = %s and kind = %s"
NO_SUCH = {
    "measure": "there is no such benchmark run",
    "verify": "there is no such module under way",
}
FURTHER = """
with reached as (
    select (select coalesce(sum(calls), 0) from blocks where run_id = %(id)s)
        + (select count(*) from sizes where run_id = %(id)s)
        + (select cardinality(chosen) from runs where id = %(id)s) as steps
)
update runs set furthest = steps, lost = 0 from reached where id = %(id)s and steps > furthest
"""
# Of a run's duration while no run has ended yet, in seconds.
USUAL_DURATION = 30.0


# What a worker does in a run: measure a model, or run a module of it once.
Kind = Literal["measure", "verify"]


@dataclass(frozen=True)
class Limits:
    """Of an account within an hour, and of runs that wait."""

    per_hour: int
    waiting: int
    verified_per_hour: int = 20


@dataclass(frozen=True)
class Change:
    """What just became of a run, for those who watch it."""

    account: str
    run: Run
    kind: Kind = "measure"


class RunStore:
    def __init__(self, database: Database, limits: Limits) -> None:
        self.database = database
        self.limits = limits

    # What callers do

    async def accept(
        self,
        account: str,
        key: str,
        worker_class: Class,
        work: Measurement,
        total: int,
        module: Module | None = None,
    ) -> tuple[Run, bool]:
        """Store a run, if the account's hour and the queue have room for it.

        Counting and storing are one transaction under one lock, so that
        requests at the same moment cannot share the last place. A run that is
        refused leaves no row, and so costs nothing.

        Args:
            account: whose it is.
            key: of the request, if it came with one.
            worker_class: of the workers that can run it.
            work: what a worker is told.
            total: steps until it is done.
            module: that is to be tried, where the work is that.

        Returns:
            The run, and whether it is new: a request whose idempotency `key`
            was there within a day has its run already.

        Raises:
            RateLimited: `details.limit`; retry when the oldest run is an hour old.
            Unavailable: too many runs of the class are waiting.
        """
        async with self.database.connection() as connection:
            await connection.execute("select pg_advisory_xact_lock(hashtext('accept a run'))")
            if (accepted := await self._accepted(connection, account, key)) is not None:
                return accepted, False
            await self._check_hour(connection, account, "verify" if module else "measure")
            await self._check_queue(connection, worker_class)
            await connection.execute(
                "insert into runs (id, account, model_id, commit, worker_class, work, total,"
                " idempotency_key, kind, module)"
                " values (%s, %s, %s, %s, %s, %s, %s, nullif(%s, ''), %s, %s)",
                [
                    work.id,
                    account,
                    work.model.id,
                    work.model.commit,
                    worker_class,
                    _json(work),
                    total,
                    key,
                    "verify" if module else "measure",
                    module and _json(module),
                ],
            )
            rows = await _select(connection, "where id = %s", [work.id])
            return await self._described(connection, rows[0]), True

    async def _accepted(self, connection: Connection, account: str, key: str) -> Run | None:
        # An answer of 5xx is not kept: who sends the request again has it done again.
        rows = key and await _select(
            connection,
            "where account = %s and idempotency_key = %s and created_at > now() - interval '1 day'"
            " and (kind = 'verify' or coalesce((error->>'status')::integer, 0) < 500)",
            [account, key],
        )
        return await self._described(connection, rows[0]) if rows else None

    async def _check_hour(self, connection: Connection, account: str, kind: Kind) -> None:
        most, what = self.limits.per_hour, "benchmark runs"
        if kind == "verify":
            most, what = self.limits.verified_per_hour, "modules that are run before the answer"
        cursor = await connection.execute(
            "select extract(epoch from created_at + interval '1 hour' - now())::float from runs"
            " where account = %s and kind = %s and created_at > now() - interval '1 hour'"
            " order by created_at desc limit 1 offset %s",
            [account, kind, most - 1],
        )
        row = await cursor.fetchone()
        if row is not None:
            raise RateLimited(
                f"{most} {what} an hour are the limit; those that are over count too",
                retry_after=int(row[0]) + 1,
                limit=most,
            )

    async def _check_queue(self, connection: Connection, worker_class: Class) -> None:
        cursor = await connection.execute(
            "select count(*) from runs where state = 'queued' and worker_class = %s",
            [worker_class],
        )
        row = await cursor.fetchone()
        if row is not None and row[0] >= self.limits.waiting:
            raise Unavailable(f"{row[0]} runs are waiting already; try again later", retry_after=60)

    async def row(self, account: str, id: str, kind: Kind) -> tuple[Run, dict[str, Any]]:
        """The run, and its row as it lies in the database.

        Raises:
            NotFound: there is none, or it is somebody else's.
        """
        async with self.database.connection() as connection:
            rows = await _select(connection, OWN, [id, account, kind])
            if not rows:
                raise NotFound(NO_SUCH[kind])
            return await self._described(connection, rows[0]), rows[0]

    async def newest(self, account: str, limit: int, before: str | None) -> list[Run]:
        """Newest first, without their results."""
        async with self.database.connection() as connection:
            rows = await _select(
                connection,
                "where account = %(account)s and kind = 'measure'"
                " and (%(before)s::text is null or (created_at, id) < (select created_at, id"
                " from runs where id = %(before)s and account = %(account)s))"
                " order by created_at desc, id desc limit %(limit)s",
                {"account": account, "before": before, "limit": limit},
            )
            lean = [{**row, "results": None, "analysis": None} for row in rows]
            return [await self._described(connection, row) for row in lean]

    async def cancel(
        self, account: str, id: str, kind: Kind = "measure"
    ) -> tuple[Change, int | None]:
        """End a run; one that is over stays as it is. Also its message's number in the queue."""
        async with self.database.connection() as connection:
            await connection.execute(
                "update runs set state = 'canceled', finished_at = now(), holder = null"
                " where id = %s and account = %s and kind = %s and state in ('queued', 'running')",
                [id, account, kind],
            )
            rows = await _select(connection, OWN, [id, account, kind])
            if not rows:
                raise NotFound(NO_SUCH[kind])
            return _change(rows[0]), rows[0]["sequence"]

    # What workers do

    async def take(self, id: str, worker: str) -> tuple[Ticket, Change | None]:
        """Hand the run to a delivery; who had it before and did not give it back was lost."""
        async with self.database.connection() as connection:
            rows = await _select(
                connection,
                "where id = %s and state in ('queued', 'running') for update",
                [id],
            )
            if not rows:
                return Ticket(run=False), None
            cursor = await connection.execute(
                "update runs set state = 'running', holder = %(worker)s,"
                " lost = lost + (coalesce(holder, %(worker)s) <> %(worker)s)::int,"
                " started_at = coalesce(started_at, now())"
                " where id = %(id)s returning chosen, lost",
                {"worker": worker, "id": id},
            )
            chosen, lost = await cursor.fetchone() or ([], 0)
            # Of what is in the figures only that it is there: it may be megabytes.
            cursor = await connection.execute(
                "select round, batch_size, case when round = %s then samples end"
                " from blocks where run_id = %s order by round, batch_size",
                [SEARCHING, id],
            )
            blocks = await cursor.fetchall()
            facts = await self._sizes(connection, id)
            rows = await _select(connection, "where id = %s", [id])
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
            return ticket, _change(rows[0])

    async def report(self, report: Report) -> Change | None:
        """Store what a delivery brings; None if it has to stop. The same again changes nothing."""
        async with self.database.connection() as connection:
            rows = await _select(
                connection,
                "where id = %s and holder = %s and state = 'running' for update",
                [report.id, report.worker],
            )
            if not rows:
                return None
            if report.setup:
                before = setup_of(rows[0])
                if before and not before.like(report.setup):
                    await self._begin_anew(connection, report.id)
                await connection.execute(
                    "update runs set setup = %s where id = %s", [_json(report.setup), report.id]
                )
            if report.samples:
                samples = report.samples
                await connection.execute(
                    "insert into blocks values (%s, %s, %s, %s, %s) on conflict do nothing",
                    [
                        report.id,
                        samples.round,
                        samples.batch_size,
                        len(samples.wall),
                        _json(samples),
                    ],
                )
            if report.size:
                await connection.execute(
                    "insert into sizes values (%s, %s, %s) on conflict (run_id, batch_size)"
                    " do update set facts = sizes.facts || excluded.facts",
                    [report.id, report.size.batch_size, _json(report.size, exclude_none=True)],
                )
            if report.chosen is not None:
                iterations = rows[0]["work"]["request"]["iterations"]
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
            if report.given_back:
                await connection.execute("update runs set holder = null where id = %s", [report.id])
            if report.samples or report.size or report.chosen is not None:
                await connection.execute(FURTHER, {"id": report.id})
            await connection.execute(
                "update runs set done = least(total,"
                " (select coalesce(sum(calls), 0) from blocks where run_id = runs.id)"
                " + (select count(*) from sizes where run_id = runs.id and facts ? 'shortage'"
                " and (batch_size = any(chosen)"
                " or work->'request'->'batchSizes' @> to_jsonb(batch_size)))"
                " * (work->'request'->>'iterations')::int) where id = %s",
                [report.id],
            )
            rows = await _select(connection, "where id = %s", [report.id])
            return _change(rows[0])

    async def _begin_anew(self, connection: Connection, id: str) -> None:
        """What was measured on another machine cannot stand in one sample with what is to come."""
        await connection.execute("delete from blocks where run_id = %s", [id])
        await connection.execute("delete from sizes where run_id = %s", [id])
        await connection.execute("update runs set chosen = '{}' where id = %s", [id])

    async def brought_in(
        self, id: str, worker: str
    ) -> tuple[dict[str, Any], list[Samples], list[SizeFacts]] | None:
        """All that was reported of a run; None if this delivery no longer has it."""
        async with self.database.connection() as connection:
            rows = await _select(
                connection,
                "where id = %s and holder = %s and state = 'running'",
                [id, worker],
            )
            if not rows:
                return None
            cursor = await connection.execute(
                "select samples from blocks where run_id = %s and round <> %s"
                " order by round, batch_size",
                [id, SEARCHING],
            )
            samples = [Samples.model_validate(row[0]) for row in await cursor.fetchall()]
            return rows[0], samples, await self._sizes(connection, id)

    async def finish(
        self,
        id: str,
        worker: str,
        outcome: tuple[Results, Analysis] | Verdict | Failure,
        records: list[dict[str, Any]],
    ) -> Change | None:
        """End the run with its outcome, once; `records` are for the metrics service."""
        failed = isinstance(outcome, Failure)
        figures = outcome if isinstance(outcome, tuple) else (None, None)
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update runs set state = %s, finished_at = now(), holder = null,"
                " done = case when %s then done else total end,"
                " results = %s, analysis = %s, error = %s, verdict = %s"
                " where id = %s and holder = %s and state = 'running' returning account",
                [
                    "failed" if failed else "succeeded",
                    failed,
                    figures[0] and _json(figures[0]),
                    figures[1] and _json(figures[1]),
                    _json(outcome) if isinstance(outcome, Failure) else None,
                    _json(outcome) if isinstance(outcome, Verdict) else None,
                    id,
                    worker,
                ],
            )
            if cursor.rowcount == 0:
                return None
            rows = await _select(connection, "where id = %s", [id])
            for record in records:
                await connection.execute(
                    "insert into outbox (account, run_id, record) values (%s, %s, %s)",
                    [rows[0]["account"], id, Jsonb(record)],
                )
            return _change(rows[0])

    # Rows to messages

    async def _sizes(self, connection: Connection, id: str) -> list[SizeFacts]:
        cursor = await connection.execute(
            "select facts from sizes where run_id = %s order by batch_size", [id]
        )
        return [SizeFacts.model_validate(row[0]) for row in await cursor.fetchall()]

    async def _described(self, connection: Connection, row: dict[str, Any]) -> Run:
        """The run, and while it waits also its place in the queue and a guess of the time."""
        run = _run(row)
        if run.state != "queued":
            return run
        cursor = await connection.execute(
            "select count(*) filter (where state = 'queued' and (created_at, id) <= (%s, %s)),"
            " count(*) filter (where state = 'running') from runs"
            " where worker_class = %s and state in ('queued', 'running')",
            [row["created_at"], row["id"], row["worker_class"]],
        )
        position, running = await cursor.fetchone() or (1, 0)
        cursor = await connection.execute(
            "select avg(extract(epoch from finished_at - started_at))::float from (select"
            " started_at, finished_at from runs where worker_class = %s and state = 'succeeded'"
            " order by finished_at desc limit 20) as latest",
            [row["worker_class"]],
        )
        usual = (await cursor.fetchone() or (None,))[0] or USUAL_DURATION
        cursor = await connection.execute(
            "select count(*) from workers where worker_class = %s and seen_at > now() - %s",
            [row["worker_class"], PRESENT],
        )
        [there] = await cursor.fetchone() or (0,)
        estimate = None  # nobody knows when a worker comes up
        if there:
            machines = max(there, running)
            ahead = position - 1 + max(running - machines + 1, 0)
            estimate = round(usual * ahead / machines, 1)
        return run.model_copy(
            update={"queue": Queue(position=max(position, 1), estimate_seconds=estimate)}
        )


async def _select(connection: Connection, where: str, values: Any) -> list[dict[str, Any]]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"select * from runs {where}".encode(), values)  # noqa: S608  (constants)
        return await cursor.fetchall()


def _run(row: dict[str, Any]) -> Run:
    return Run(
        id=row["id"],
        model_id=row["model_id"],
        commit=row["commit"],
        state=row["state"],
        progress=Progress(done=row["done"], total=row["total"]),
        results=row["results"] and Results.model_validate(row["results"]),
        analysis=row["analysis"] and Analysis.model_validate(row["analysis"]),
        error=row["error"] and Failure.model_validate(row["error"]),
        created_at=_utc(row["created_at"]),
        started_at=_utc(row["started_at"]),
        finished_at=_utc(row["finished_at"]),
    )


def _change(row: dict[str, Any]) -> Change:
    return Change(row["account"], _run(row), row["kind"])


def setup_of(row: dict[str, Any]) -> Setup | None:
    return Setup.model_validate(row["setup"]) if row["setup"] else None


def new_id(kind: Kind = "measure") -> str:
    return f"{'bench' if kind == 'measure' else 'verify'}_{secrets.token_hex(12)}"


def measurement_of(row: dict[str, Any]) -> Measurement:
    return Measurement.model_validate(row["work"])


def _utc(moment: datetime | None) -> Any:
    return moment and moment.astimezone(UTC)


def _json(message: Message, *, exclude_none: bool = False) -> Jsonb:
    return Jsonb(message.model_dump(mode="json", by_alias=True, exclude_none=exclude_none))
