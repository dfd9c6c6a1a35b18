"""Admission of runs: the account's hourly limit, its share of the queue, the queue's length."""

from dataclasses import dataclass
from typing import Literal

from benchmarker import turns
from benchmarker.runs import Kind, describe, select, to_json
from benchmarker.turns import TENANT
from common.context import Context
from common.contracts.benchmarking import Run, RunLimit
from common.contracts.generation import Module
from common.contracts.measuring import Class, Measurement
from common.errors import RateLimited, Unavailable
from common.postgres import Connection, Database

HOUR_S = 3600
# Runs that count against the hourly limit: not those that ended before anything was measured; of
# trials, those that started on a worker, unless they failed without a verdict.
COUNTED = """
(state not in ('canceled', 'failed')
    or kind = 'verify' and state = 'canceled' and started_at is not null
    or exists (select from blocks where run_id = runs.id)
    or exists (select from sizes where run_id = runs.id and facts ? 'memory'))
"""
COUNT_HOUR = f"""
select kind, count(*), extract(epoch from min(created_at) + interval '1 hour' - now())::float
from runs where account = %s and created_at > now() - interval '1 hour' and {COUNTED}
group by kind
""".encode()  # noqa: S608  (constants)
COUNT_WAITING = f"""
select count(*) filter (where account = %(account)s), count(*) filter (where {TENANT} = %(tenant)s)
from runs where state = 'queued'
""".encode()  # noqa: S608  (constants)
POLICIES: dict[Kind, tuple[Literal["benchmark", "verify"], str]] = {
    "measure": ("benchmark", "benchmark runs"),
    "verify": ("verify", "verified modules"),
}


@dataclass(frozen=True)
class Limits:
    """Limits on an account's runs within an hour, and on waiting runs."""

    per_hour: int
    verified_per_hour: int
    max_waiting: int
    max_waiting_per_account: int


@dataclass(frozen=True)
class Application:
    """A requested run that is not admitted yet.

    Attributes:
        caller: the request's account, tenant and idempotency key.
        worker_class: class of the workers that can run it.
        work: the message for the worker.
        total: steps until it is done.
        module: the module to run, in a verification.
    """

    caller: Context
    worker_class: Class
    work: Measurement
    total: int
    module: Module | None = None

    @property
    def kind(self) -> Kind:
        return "verify" if self.module else "measure"


class Admission:
    def __init__(self, database: Database, limits: Limits) -> None:
        self.database = database
        self.limits = limits

    async def accept(self, application: Application) -> tuple[Run, bool]:
        """Store a run if the account's hourly limit and the queue have room for it.

        Counting and storing are one transaction under one lock, so that
        simultaneous requests cannot share the last place. A refused run leaves
        no row, and so costs nothing.

        Returns:
            The run, and whether it is new: a request whose idempotency key was
            used within a day gets the run of the first request.

        Raises:
            RateLimited: `details.limit` runs within an hour, or waiting.
            Unavailable: too many runs of the class are waiting.
        """
        async with self.database.connection() as connection:
            await connection.execute("select pg_advisory_xact_lock(hashtext('accept a run'))")
            if (accepted := await _accepted(connection, application)) is not None:
                return accepted, False
            await self._check_hour(connection, application)
            await self._check_share(connection, application)
            await self._check_queue(connection, application.worker_class)
            work = application.work
            await connection.execute(
                "insert into runs (id, account, tenant, model_id, commit, worker_class, work,"
                " total, idempotency_key, kind, module)"
                " values (%s, %s, %s, %s, %s, %s, %s, %s, nullif(%s, ''), %s, %s)",
                [
                    work.id,
                    application.caller.account,
                    turns.tenant_of(application.caller),
                    work.model.id,
                    work.model.commit,
                    application.worker_class,
                    to_json(work),
                    application.total,
                    application.caller.idempotency_key,
                    application.kind,
                    application.module and to_json(application.module),
                ],
            )
            rows = await select(connection, "where id = %s", [work.id])
            return await describe(connection, rows[0]), True

    async def remaining(self, account: str) -> list[RunLimit]:
        """Return how many runs of each kind the account may still start."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(COUNT_HOUR, [account])
            counted = {kind: (count, ends) for kind, count, ends in await cursor.fetchall()}
        remaining = []
        for kind, (policy, _) in POLICIES.items():
            count, ends = counted.get(kind, (0, None))
            limit = self.per_hour[kind]
            remaining.append(
                RunLimit(
                    policy=policy,
                    limit=limit,
                    window=HOUR_S,
                    left=max(limit - count, 0),
                    reset=None if ends is None else int(ends) + 1,
                )
            )
        return remaining

    @property
    def per_hour(self) -> dict[Kind, int]:
        return {"measure": self.limits.per_hour, "verify": self.limits.verified_per_hour}

    async def _check_hour(self, connection: Connection, application: Application) -> None:
        limit = self.per_hour[application.kind]
        policy, noun = POLICIES[application.kind]
        cursor = await connection.execute(
            "select extract(epoch from created_at + interval '1 hour' - now())::float from runs"  # noqa: S608  (constants)
            " where account = %s and kind = %s and created_at > now() - interval '1 hour'"
            f" and {COUNTED} order by created_at desc limit 1 offset %s".encode(),
            [application.caller.account, application.kind, limit - 1],
        )
        row = await cursor.fetchone()
        if row is not None:
            raise RateLimited(
                f"at most {limit} {noun} an hour, finished ones included; try again later",
                retry_after=int(row[0]) + 1,
                limit=limit,
                window=HOUR_S,
                policy=policy,
            )

    async def _check_share(self, connection: Connection, application: Application) -> None:
        """Raise RateLimited if too many runs of the account, or of its tenant, are waiting.

        Both, since a new account that calls from several networks has several tenants.
        """
        limit, caller = self.limits.max_waiting_per_account, application.caller
        cursor = await connection.execute(
            COUNT_WAITING, {"account": caller.account, "tenant": turns.tenant_of(caller)}
        )
        own, shared = await cursor.fetchone() or (0, 0)
        if max(own, shared) < limit:
            return
        whose, advice = "this account", "cancel one, or wait for one to start"
        if own < limit:
            whose, advice = "new accounts at this network address", "wait for one to start"
        raise RateLimited(
            f"at most {limit} runs of {whose} may wait; {advice}", retry_after=60, limit=limit
        )

    async def _check_queue(self, connection: Connection, worker_class: Class) -> None:
        cursor = await connection.execute(
            "select count(*) from runs where state = 'queued' and worker_class = %s",
            [worker_class],
        )
        [waiting] = await cursor.fetchone() or (0,)
        if waiting >= self.limits.max_waiting:
            raise Unavailable(
                f"the queue is full: {waiting} runs are waiting; try again later", retry_after=60
            )


async def _accepted(connection: Connection, application: Application) -> Run | None:
    """Return the run of an earlier request with the same idempotency key; None without one.

    A run that failed with 5xx does not count: a retry of its request starts another.
    """
    rows = application.caller.idempotency_key and await select(
        connection,
        "where account = %s and idempotency_key = %s and created_at > now() - interval '1 day'"
        " and (kind = 'verify' or coalesce((error->>'status')::integer, 0) < 500)",
        [application.caller.account, application.caller.idempotency_key],
    )
    return await describe(connection, rows[0]) if rows else None
