"""Requests of each key on each day, by kind or error code: counted in memory, written later.

Counting costs a request one entry of a dictionary. A gateway that is killed loses what it
has not written yet; one that is stopped writes it.
"""

import asyncio
import time
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, get_args

import structlog
from pydantic import Field, StringConstraints

from common.background import Repeated
from common.contracts import Message
from common.faults import Hint
from common.postgres import Connection, Database

log = structlog.get_logger()

USAGE_FLUSH_INTERVAL_S = 5.0
USAGE_RETENTION_DAYS = 400
DAY_S = 86_400
UsageKind = Literal["generate", "benchmark", "verify", "record", "monitor"]
KINDS: tuple[UsageKind, ...] = get_args(UsageKind)

# In one order, so that two gateways do not deadlock; an account may have been deleted meanwhile.
FLUSH = """
insert into key_usage (account_id, key_id, day, kind, requests)
select account_id, key_id, day, kind, requests
from unnest(%s::text[], %s::text[], %s::date[], %s::text[], %s::bigint[])
    as used (account_id, key_id, day, kind, requests)
join accounts on accounts.id = used.account_id
order by account_id, day, key_id, kind
on conflict (account_id, day, key_id, kind)
    do update set requests = key_usage.requests + excluded.requests
"""
PAGE = """
select day, key_id, coalesce(min(keys.name), ''), jsonb_object_agg(kind, requests)
from key_usage left join keys on keys.id = key_id
where key_usage.account_id = %(account)s and day > %(since)s
    and (%(day)s::date is null or (day, key_id) < (%(day)s::date, %(key)s::text))
group by day, key_id order by day desc, key_id desc limit %(limit)s
"""


class UsageRequest(Message):
    days: Annotated[int, Field(ge=1, le=365)] = Field(
        30, description="Days up to today, which counts as one."
    )
    limit: Annotated[int, Field(ge=1, le=1_000)] = Field(100, description="Rows per page.")
    before: (
        Annotated[
            str,
            StringConstraints(pattern=r"^\d{4}-\d\d-\d\d\.[a-z0-9_]{1,64}$"),
            Hint("must be the `next` of the last page, unchanged"),
        ]
        | None
    ) = Field(
        None,
        description="`next` of the previous page.",
        examples=["2026-01-31.key_4f1d0c2a9b8e7d6c5b4a3928"],
    )


class KeyUsage(Message):
    """Requests of one key on one day: successes by kind, and errors by code."""

    day: date = Field(description="The day, in UTC.")
    key_id: str = Field(description="Id of the API key.")
    key_name: str = Field(description="Name of the API key.")
    generate: int = Field(0, description="Modules generated or downloaded.")
    benchmark: int = Field(0, description="Benchmarks requested.")
    verify: int = Field(0, description="Modules requested with `verify`.")
    record: int = Field(0, description="Requests that recorded metrics.")
    monitor: int = Field(0, description="Requests for statistics or samples.")
    errors: dict[str, int] = Field(
        {}, description="Requests that were refused or failed, of any kind, by error code."
    )


class Usage(Message):
    """A page of usage, the newest day first; send `next` as `before` for the next page."""

    usage: list[KeyUsage] = Field(description="One page: a row for each key and day.")
    next: str | None = Field(
        None, description="Value of `before` for the next page; null on the last."
    )


class UsageCounts:
    def __init__(self, database: Database) -> None:
        self.database = database
        # The last part of a key is the kind, or an error's code.
        self._unflushed: Counter[tuple[str, str, int, str]] = Counter()
        # One flush at a time, so that a page waits for counts that are being written.
        self._flushing = asyncio.Lock()

    def add(self, account: str, key: str, kind: UsageKind | int) -> None:
        """Count a request under its kind, or under the code of its error."""
        self._unflushed[account, key, int(time.time()) // DAY_S, str(kind)] += 1

    async def flush(self) -> None:
        """Write the counts; keep them for the next flush if that fails."""
        async with self._flushing:
            if not self._unflushed:
                return
            counts, self._unflushed = self._unflushed, Counter()
            accounts, keys, days, kinds = (list(column) for column in zip(*counts, strict=True))
            dates = [date(1970, 1, 1) + timedelta(days=day) for day in days]
            values = [accounts, keys, dates, kinds, [*counts.values()]]
            try:
                async with self.database.connection() as connection:
                    await connection.execute(FLUSH, values)
            except BaseException:
                self._unflushed += counts
                raise

    async def keep_flushing(self) -> None:
        """Write the counts periodically until canceled, and once more then."""
        try:
            await Repeated(self.flush, USAGE_FLUSH_INTERVAL_S).run()
        finally:
            await self.flush()

    async def page(self, account: str, request: UsageRequest) -> Usage:
        """Read one page of an account's usage, the newest day first."""
        await self.flush()
        day, _, key = (request.before or "").partition(".")
        values = {
            "account": account,
            "since": datetime.now(UTC).date() - timedelta(days=request.days),
            "day": _day(day) if day else None,
            "key": key,
            "limit": request.limit + 1,
        }
        async with self.database.connection() as connection:
            rows = await (await connection.execute(PAGE, values)).fetchall()
        page = [
            KeyUsage(day=day, key_id=key, key_name=name, **_by_kind(requests))
            for day, key, name, requests in rows[: request.limit]
        ]
        more = len(rows) > request.limit
        return Usage(usage=page, next=f"{page[-1].day}.{page[-1].key_id}" if more else None)


def _by_kind(counted: dict[str, int]) -> dict[str, Any]:
    errors = {kind: number for kind, number in sorted(counted.items()) if kind.isdigit()}
    return {**counted, "errors": errors}


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return date.max


async def forget_old(connection: Connection) -> None:
    await connection.execute(
        "delete from key_usage where day < current_date - %s::integer", [USAGE_RETENTION_DAYS]
    )
