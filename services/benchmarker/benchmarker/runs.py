"""Stored runs, which their account reads, lists and cancels.

    queued -> running -> succeeded | failed
    queued | running -> canceled

A finished run never changes. `admission` makes the rows, `deliveries` has what
workers do with them, `turns` says which of those that wait is next.
"""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from benchmarker import turns
from common.context import Context
from common.contracts import Body, Message
from common.contracts.address import MAIN, Address
from common.contracts.benchmarking import Failure, Progress, Quote, Run, Summary
from common.contracts.figures import Analysis, Results, Setup
from common.contracts.measuring import SEARCHING, Class, Measurement, Samples, SizeFacts
from common.errors import NotFound
from common.faults import unknown_before
from common.postgres import Connection, Database

# Kinds of runs: a worker measures a model, or runs a module once.
Kind = Literal["measure", "verify"]
Row = dict[str, Any]
# All reports of a run: its row, its timed blocks, its sizes.
Findings = tuple[Row, list[Samples], list[SizeFacts]]

OWN = "where id = %s and account = %s and kind = %s"
MISSING = {
    "measure": "no such benchmark run; GET /v1/api/benchmark lists the runs",
    "verify": "no such verification; GET /v1/api/generations lists verified modules",
}
# A succeeded run is shown as running until its figures are recorded, so that a caller who reads
# `succeeded` finds them under /monitor; at most this long if the metrics service is unavailable.
RECORDING_S = 60
RECORDING = f"""
(state = 'succeeded' and finished_at > now() - interval '{RECORDING_S} s'
    and exists (select from outbox where run_id = runs.id))
"""
SELECT = f"select runs.*, {RECORDING} as recording from runs"  # noqa: S608  (constants)


@dataclass(frozen=True)
class Change:
    """A run whose state or progress has just changed."""

    account: str
    run: Run
    kind: Kind
    worker_class: Class


class RunStore:
    """The runs in the database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    async def find(self, account: str, id: str, kind: Kind) -> tuple[Run, Row]:
        """Return an account's run, and its database row.

        Raises:
            NotFound: it does not exist, or belongs to another account.
        """
        async with self.database.connection() as connection:
            rows = await select(connection, OWN, [id, account, kind])
            if not rows:
                raise NotFound(MISSING[kind])
            return await describe(connection, rows[0]), rows[0]

    async def change(self, id: str) -> Change:
        """Return the current state of a run, to be published."""
        async with self.database.connection() as connection:
            return change_of((await select(connection, "where id = %s", [id]))[0])

    async def needs_own_token(self, id: str) -> bool:
        """Return whether the run's model is read with its account's own Hub token."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select 1 from runs where id = %s and work->>'readBy' = 'account'", [id]
            )
            return await cursor.fetchone() is not None

    async def newest(
        self, account: str, limit: int, before: str | None, model: Address | None = None
    ) -> list[Run]:
        """Return the account's benchmark runs, newest first, without their results.

        `model` selects the runs of one model, its id in any case as on the Hub, and of its revision
        unless that is main.

        Raises:
            InvalidRequest: the account has no run with the id `before`.
        """
        async with self.database.connection() as connection:
            # One snapshot: the places of its runs agree, though some are taken meanwhile.
            await connection.execute("set transaction isolation level repeatable read, read only")
            rows = await select(
                connection,
                "where account = %(account)s and kind = 'measure'"
                " and (%(before)s::text is null or (created_at, id) < (select created_at, id"
                " from runs where id = %(before)s and account = %(account)s))"
                " and (%(model)s::text is null or lower(model_id) = lower(%(model)s))"
                " and (%(revision)s::text is null"
                " or %(revision)s in (commit, work->'request'->>'revision'))"
                " order by created_at desc, id desc limit %(limit)s",
                {
                    "account": account,
                    "before": before,
                    "limit": limit,
                    "model": model and model.id,
                    "revision": model.revision if model and model.revision != MAIN else None,
                },
            )
            if not rows and before is not None:
                cursor = await connection.execute(
                    "select from runs where account = %s and id = %s", [account, before]
                )
                if await cursor.fetchone() is None:
                    raise unknown_before()
            lean = [
                {**row, "results": None, "analysis": None, "summary": _summary(row)} for row in rows
            ]
            return [await describe(connection, row) for row in lean]

    async def quote(self, caller: Context, worker_class: Class, model_id: str) -> Quote:
        """Return the place in the queue of a run started now, and the latest run of the model."""
        async with self.database.connection() as connection:
            rows = await select(
                connection,
                "where account = %s and worker_class = %s and lower(model_id) = lower(%s)"
                " and kind = 'measure' and state = 'succeeded' order by created_at desc limit 1",
                [caller.account, worker_class, model_id],
            )
            place = await turns.next_place(connection, worker_class, turns.tenant_of(caller))
            return Quote(queue=place, last=run_of(rows[0]) if rows else None)

    async def cancel(
        self,
        account: str,
        id: str,
        kind: Kind,
        conclude: Callable[[Findings], tuple[Results, Analysis] | None],
    ) -> tuple[Change, int | None]:
        """Cancel an unfinished run, and store the figures measured so far.

        Args:
            account: the run's owner.
            id: the run's.
            kind: of run.
            conclude: the figures of what was measured, None if nothing was.

        Returns:
            The change, and the sequence number of the run's message in the queue.

        Raises:
            NotFound: the run does not exist, or belongs to another account.
        """
        async with self.database.connection() as connection:
            rows = await select(connection, f"{OWN} for update of runs", [id, account, kind])
            if not rows:
                raise NotFound(MISSING[kind])
            if rows[0]["state"] in {"queued", "running"}:
                reported = await findings(connection, rows[0])
                figures = await asyncio.to_thread(conclude, reported) or (None, None)
                await connection.execute(
                    "update runs set state = 'canceled', finished_at = now(), holder = null,"
                    " results = %s, analysis = %s where id = %s",
                    [*(part and to_json(part) for part in figures), id],
                )
                rows = await select(connection, OWN, [id, account, kind])
            return change_of(rows[0]), rows[0]["sequence"]


async def select(connection: Connection, where: str, values: Any) -> list[Row]:
    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(f"{SELECT} {where}".encode(), values)
        return await cursor.fetchall()


async def findings(connection: Connection, row: Row) -> Findings:
    """Return all reports of a run, its blocks in the order of their rounds."""
    cursor = await connection.execute(
        "select samples from blocks where run_id = %s and round <> %s order by round, batch_size",
        [row["id"], SEARCHING],
    )
    samples = [
        Samples.model_validate(row_of_samples[0]) for row_of_samples in await cursor.fetchall()
    ]
    return row, samples, await sizes_of(connection, row["id"])


async def sizes_of(connection: Connection, id: str) -> list[SizeFacts]:
    cursor = await connection.execute(
        "select facts from sizes where run_id = %s order by batch_size", [id]
    )
    return [SizeFacts.model_validate(row[0]) for row in await cursor.fetchall()]


async def describe(connection: Connection, row: Row) -> Run:
    """Return the run of a row; a queued run has its place in the queue."""
    run = run_of(row)
    if run.state != "queued":
        return run
    place = await turns.place(connection, row["worker_class"], row["id"])
    return run.model_copy(update={"queue": place})


def run_of(row: Row) -> Run:
    recording = row["recording"]
    return Run(
        id=row["id"],
        model_id=row["model_id"],
        commit=row["commit"],
        state="running" if recording else row["state"],
        progress=Progress(done=row["done"], total=row["total"]),
        results=None if recording else _read(Results, row["results"]),
        analysis=None if recording else _read(Analysis, row["analysis"]),
        summary=None if recording else row.get("summary") or _summary(row),
        error=_read(Failure, row["error"]),
        stages=_in_order(row["stages"]),
        created_at=row["created_at"].astimezone(UTC),
        started_at=_utc(row["started_at"]),
        finished_at=None if recording else _utc(row["finished_at"]),
    )


def _summary(row: Row) -> Summary | None:
    """Summarise a row's results without validating them, which would be slow for a list."""
    results, size = row["results"], (row["analysis"] or {}).get("optimal_batch_size")
    if results is None or size is None or row["recording"]:
        return None
    place = results["batchSizes"].index(size)
    return Summary(
        batch_size=size,
        throughput=results["throughput"][place],
        latency=results["latency"][place],
        cost_per_inference=results["cost_per_inference"][place],
        dtype=results["setup"]["dtype"],
        machine=results["setup"]["machine"]["name"],
    )


def _in_order(stages: dict[str, str]) -> dict[str, datetime]:
    """Sort the start times of stages, which the database does not keep in order."""
    times = {stage: datetime.fromisoformat(at).astimezone(UTC) for stage, at in stages.items()}
    return dict(sorted(times.items(), key=lambda began: began[1]))


def change_of(row: Row) -> Change:
    return Change(row["account"], run_of(row), row["kind"], row["worker_class"])


def setup_of(row: Row) -> Setup | None:
    return _read(Setup, row["setup"])


def measurement_of(row: Row) -> Measurement:
    return Measurement.model_validate(row["work"])


def new_id(kind: Kind = "measure") -> str:
    return f"{'bench' if kind == 'measure' else 'verify'}_{secrets.token_hex(12)}"


def to_json(message: Message, *, exclude_none: bool = False) -> Jsonb:
    return Jsonb(message.model_dump(mode="json", by_alias=True, exclude_none=exclude_none))


def _read(kind: type[Body], value: Any) -> Body | None:
    return kind.model_validate(value) if value else None


def _utc(moment: datetime | None) -> datetime | None:
    return moment and moment.astimezone(UTC)
