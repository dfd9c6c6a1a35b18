"""The modules that an account generated, each with the request that regenerates it.

They are queued in memory and written every second. A gateway that is killed loses what it has not
written yet; one that is stopped writes it.
"""

import asyncio
import itertools
import secrets
from collections import deque
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple

import orjson
import structlog
from psycopg.rows import dict_row
from pydantic import Field

from common.background import Repeated
from common.contracts import Message
from common.contracts.generation import GenerateRequest, ModelFacts
from common.faults import unknown_before
from common.postgres import Connection, Database

log = structlog.get_logger()

GENERATION_FLUSH_INTERVAL_S = 1.0
# Max entries queued while the database is unavailable; the oldest are dropped first.
MAX_UNWRITTEN = 10_000
MAX_WRITTEN_AT_ONCE = 1_000
# Age at which entries are deleted.
GENERATION_RETENTION_DAYS = 400
GenerationKind = Literal["generate", "download", "verify"]

# An account may have been deleted meanwhile. As JSON, since psycopg writes arrays slowly.
FLUSH = """
insert into generations
    (id, account_id, kind, model, commit, task, digest, request, verification, created_at)
select
    made.id, account_id, kind, model, commit, task, digest, request, verification, made.created_at
from jsonb_to_recordset(%s::jsonb) as made (
    id text, account_id text, kind text, model text, commit text, task text, digest text,
    request jsonb, verification text, created_at timestamptz
)
join accounts on accounts.id = made.account_id
on conflict do nothing
"""
PAGE = """
select id, kind, model as model_id, commit, task, digest, request, verification, created_at
from generations where account_id = %(account)s
and (%(before)s::text is null or (created_at, id) < (
    select created_at, id from generations where id = %(before)s and account_id = %(account)s
))
order by created_at desc, id desc limit %(limit)s
"""


class GenerationsRequest(Message):
    limit: Annotated[int, Field(ge=1, le=100)] = Field(20, description="Modules per page.")
    before: str | None = Field(
        None,
        description="`next` of the previous page.",
        examples=["gen_4f1d0c2a9b8e7d6c5b4a3928"],
    )


class Generation(Message):
    """A generated module. `request`, sent to `/generate` unchanged, generates it again."""

    id: str = Field(description="Id of the entry.")
    kind: GenerationKind = Field(
        description="Kind of request that made it; `verify` ran the module first."
    )
    model_id: str = Field(description="The model.")
    commit: str = Field(description="The model's commit, 40 hexadecimal digits.")
    task: str = Field(description="The model's task, a pipeline tag of the Hub.")
    digest: str = Field(description="SHA-256 of the module's archive, the `ETag` of `/download`.")
    request: GenerateRequest = Field(
        description="A body for `/generate` or `/download` that makes the module again: the same"
        " options, with the commit pinned."
    )
    verification: str | None = Field(
        None, description="Id of its verification, if it was requested with `verify`."
    )
    created_at: datetime = Field(description="Time at which it was returned.")


class Generations(Message):
    """A page of modules, newest first; send `next` as `before` for the next page."""

    generations: list[Generation] = Field(description="One page of modules.")
    next: str | None = Field(
        None, description="Value of `before` for the next page; null on the last."
    )


class UnwrittenGeneration(NamedTuple):
    """A generated module that is not stored yet. Its id makes a repeated write harmless."""

    id: str
    account: str
    kind: GenerationKind
    submitted: GenerateRequest
    model: ModelFacts
    digest: str | None
    verification: str | None
    at: datetime

    def row(self) -> dict[str, Any]:
        pinned = {"model_url": self.model.id, "revision": self.model.commit, "verify": False}
        request = self.submitted.model_copy(update=pinned).model_dump(
            mode="json", exclude_none=True
        )
        return {
            "id": self.id,
            "account_id": self.account,
            "kind": self.kind,
            "model": self.model.id,
            "commit": self.model.commit,
            "task": self.model.task,
            "digest": self.digest or "",
            "request": request,
            "verification": self.verification,
            "created_at": self.at,
        }


class GenerationLog:
    def __init__(self, database: Database) -> None:
        self.database = database
        self._unwritten: deque[UnwrittenGeneration] = deque(maxlen=MAX_UNWRITTEN)
        # One flush at a time, so that a page waits for entries that are being written.
        self._flushing = asyncio.Lock()

    def add(
        self,
        account: str,
        kind: GenerationKind,
        request: GenerateRequest,
        model: ModelFacts,
        digest: str | None,
        verification: str | None = None,
    ) -> None:
        """Queue a module, which is written within a second."""
        id, now = f"gen_{secrets.token_hex(12)}", datetime.now(UTC)
        self._unwritten.append(
            UnwrittenGeneration(id, account, kind, request, model, digest, verification, now)
        )

    async def flush(self) -> None:
        """Write the queued entries; keep them for the next flush if that fails."""
        async with self._flushing:
            while unwritten := [*itertools.islice(self._unwritten, MAX_WRITTEN_AT_ONCE)]:
                rows = orjson.dumps([generation.row() for generation in unwritten]).decode()
                async with self.database.connection() as connection:
                    await connection.execute(FLUSH, [rows])
                written = {generation.id for generation in unwritten}
                while self._unwritten and self._unwritten[0].id in written:
                    self._unwritten.popleft()

    async def keep_flushing(self) -> None:
        """Write the queue periodically until canceled, and once more then."""
        try:
            await Repeated(self.flush, GENERATION_FLUSH_INTERVAL_S).run()
        finally:
            await self.flush()

    async def page(self, account: str, request: GenerationsRequest) -> Generations:
        """Read one page of an account's modules, newest first.

        Raises:
            InvalidRequest: `before` is none of them.
        """
        await self.flush()
        values = {"account": account, "before": request.before, "limit": request.limit + 1}
        async with (
            self.database.connection() as connection,
            connection.cursor(row_factory=dict_row) as cursor,
        ):
            await cursor.execute(PAGE, values)
            rows = await cursor.fetchall()
            if not rows and request.before is not None:
                await cursor.execute(
                    "select from generations where account_id = %(account)s and id = %(before)s",
                    values,
                )
                if not await cursor.fetchone():
                    raise unknown_before()
        page = [Generation.model_validate(row) for row in rows[: request.limit]]
        more = len(rows) > request.limit
        return Generations(generations=page, next=page[-1].id if more else None)


async def forget_old(connection: Connection) -> None:
    await connection.execute(
        "delete from generations where created_at < now() - %s * interval '1 day'",
        [GENERATION_RETENTION_DAYS],
    )
