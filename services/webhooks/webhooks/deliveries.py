"""Stored deliveries of events to webhooks: due, taken, attempted, done.

A delivery is stored before its event is confirmed to the publisher. A replica
leases a row for as long as an attempt may last; if the replica dies, the row is
due again, and the receiver recognises a repeated event by its id.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from common.contracts.timestamps import to_text, to_us
from common.contracts.webhooks import (
    Deliveries,
    DeliveriesOfWebhook,
    Delivery,
    DeliveryName,
    Occurrence,
)
from common.errors import NotFound
from common.faults import unknown_before
from common.postgres import Database
from webhooks.post import TIMEOUT_S, Posted
from webhooks.registry import FAIL_WAITING, missing
from webhooks.schedule import pause_s
from webhooks.sealing import Sealing

# Longer than an attempt and the write after it.
TAKEN_FOR = timedelta(seconds=3 * TIMEOUT_S)
# Max concurrent attempts for a webhook, which bounds what a slow one holds.
MAX_AT_ONCE_PER_WEBHOOK = 4
MAX_ATTEMPTS_LOGGED = 20

# The webhooks that want the event and have room; an event that none wants is not stored.
WANTED = """
from webhooks where account = %(account)s and enabled and %(type)s = any(events)
and (select count(*) from deliveries where webhook = webhooks.id and state = 'pending') < %(max)s
"""
NOTE = f"""
insert into occurrences (id, account, type, body, at)
select %(id)s, %(account)s, %(type)s, %(body)s, %(at)s where exists (select {WANTED})
on conflict (id) do nothing returning id
"""
DELIVER = f"""
insert into deliveries (webhook, occurrence, account, next_at)
select id, %(id)s, account, now() {WANTED}
"""
# The former secret signs too, while the receiver changes over.
SECRETS = """array_remove(array[
    secret, case when former_until > now() then former_secret end
], null)"""
# The oldest deliveries of each webhook, up to its concurrency, in turns: one webhook's thousand
# deliveries do not delay another's single one.
TAKE = f"""
with due as (
    select number, taken_until > now() as taken,
        row_number() over (
            partition by webhook order by (taken_until > now()) desc nulls last, next_at
        ) as turn
    from deliveries where state = 'pending' and (next_at <= now() or taken_until > now())
)
update deliveries set taken_until = now() + %(taken_for)s
from webhooks, occurrences where deliveries.number in (
    select number from deliveries where number in (
        select number from due where turn <= %(each)s and taken is not true
        order by turn, number limit %(limit)s
    ) and state = 'pending' and (taken_until is null or taken_until <= now())
    for update skip locked
) and webhooks.id = deliveries.webhook and occurrences.id = deliveries.occurrence
returning number, webhook, url, occurrence, body, tried, {SECRETS} as secrets
"""  # noqa: S608  (a constant)
RECORD = """
update deliveries set
    state = %(state)s, tried = tried + 1, taken_until = null,
    next_at = case when %(state)s = 'pending' then now() + %(pause)s end,
    attempts = case when jsonb_array_length(attempts) < %(logged)s
        then attempts || %(attempt)s else (attempts - 0) || %(attempt)s end
where number = %(number)s
"""
DISABLE = """
update webhooks set enabled = false, disabled_reason = %(reason)s
where id = (select webhook from deliveries where number = %(number)s) returning id
"""
NEVER_SINCE = """
select not exists (
    select from deliveries as other where other.webhook = deliveries.webhook
    and other.state = 'succeeded' and other.number > deliveries.number
) from deliveries where number = %s
"""
LIST = """
select occurrence as id, type, state, attempts, next_at as next_attempt_at, deliveries.created_at
from deliveries join occurrences on occurrences.id = occurrence
where webhook = %(webhook)s and deliveries.account = %(account)s
and (%(state)s::text is null or state = %(state)s)
and (%(before)s::text is null or number < (
    select number from deliveries where webhook = %(webhook)s and occurrence = %(before)s
))
and (%(id)s::text is null or occurrence = %(id)s)
order by number desc limit %(limit)s
"""


@dataclass(frozen=True)
class Parcel:
    """A delivery that this replica has taken, with everything that an attempt needs."""

    number: int
    webhook: str
    url: str
    occurrence: str
    body: str
    tried: int
    secrets: Sequence[str]


class DeliveryStore:
    def __init__(self, database: Database, sealing: Sealing, max_waiting: int) -> None:
        self.database = database
        self.sealing = sealing
        self.max_waiting = max_waiting

    async def store(self, occurrences: Sequence[Occurrence]) -> None:
        """Store an event once, with a delivery for each webhook that subscribes to it."""
        async with self.database.connection() as connection:
            for occurrence in occurrences:
                values = {
                    **occurrence.model_dump(include={"id", "account", "type", "at"}),
                    "body": body_of(occurrence),
                    "max": self.max_waiting,
                }
                if await (await connection.execute(NOTE, values)).fetchone() is not None:
                    await connection.execute(DELIVER, values)

    async def take(self, limit: int) -> list[Parcel]:
        """Take deliveries that are due, in turns between webhooks."""
        async with self.database.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                TAKE,
                {"taken_for": TAKEN_FOR, "each": MAX_AT_ONCE_PER_WEBHOOK, "limit": limit},
            )
            rows = await cursor.fetchall()
        parcels = [Parcel(**row) for row in rows]
        return [
            replace(parcel, secrets=self.sealing.open(parcel.secrets, parcel.webhook))
            for parcel in parcels
        ]

    async def record(self, parcel: Parcel, posted: Posted) -> None:
        """Store an attempt, and when the next one is due."""
        wait_s = None if posted.succeeded or posted.gone else pause_s(parcel.tried + 1)
        if wait_s is not None and posted.retry_after_s is not None:
            wait_s = max(wait_s, posted.retry_after_s)
        state = "succeeded" if posted.succeeded else "failed" if wait_s is None else "pending"
        async with self.database.connection() as connection:
            await connection.execute(
                RECORD,
                {
                    "number": parcel.number,
                    "state": state,
                    "pause": timedelta(seconds=wait_s or 0),
                    "attempt": Jsonb([json.loads(posted.attempt.model_dump_json(by_alias=True))]),
                    "logged": MAX_ATTEMPTS_LOGGED,
                },
            )
            if state != "failed":
                return
            cursor = await connection.execute(NEVER_SINCE, [parcel.number])
            if posted.gone:
                reason = "the address answered 410: it wants no more"
            elif await cursor.fetchone() == (True,):
                reason = f"an event failed in all its attempts; the last: {posted.attempt.error}"
            else:
                return
            values = {"number": parcel.number, "reason": reason}
            disabled = await (await connection.execute(DISABLE, values)).fetchone()
            await connection.execute(FAIL_WAITING, disabled)

    async def newest(self, account: str, request: DeliveriesOfWebhook) -> Deliveries:
        """Return a webhook's deliveries, newest first.

        Raises:
            NotFound: no such webhook, or another account's.
            InvalidRequest: `before` is none of its deliveries.
        """
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select from webhooks where account = %s and id = %s", [account, request.id]
            )
            if await cursor.fetchone() is None:
                raise missing()
            if request.before is not None:
                cursor = await connection.execute(
                    "select from deliveries where webhook = %s and occurrence = %s",
                    [request.id, request.before],
                )
                if await cursor.fetchone() is None:
                    raise unknown_before()
        rows = await self._rows(account, request.id, request.state, request.before, request.limit)
        return Deliveries(deliveries=rows)

    async def redeliver(self, account: str, name: DeliveryName) -> Delivery:
        """Make a delivery due again, with its full number of attempts.

        Raises:
            NotFound: no such delivery, or another account's.
        """
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update deliveries set state = 'pending', tried = 0, next_at = now()"
                " where account = %s and webhook = %s and occurrence = %s",
                [account, name.id, name.delivery],
            )
            if not cursor.rowcount:
                raise NotFound("no such delivery; GET /v1/api/webhooks/<id>/deliveries lists them")
        return (await self._rows(account, name.id, id=name.delivery))[0]

    async def parcel_for_test(self, account: str, webhook: str) -> Parcel:
        """Return a test event, to be posted once and not stored.

        Raises:
            NotFound: no such webhook, or another account's.
        """
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                f"select url, {SECRETS}, now() from webhooks where account = %s and id = %s",  # noqa: S608  (a constant)
                [account, webhook],
            )
            row = await cursor.fetchone()
        if row is None:
            raise missing()
        url, signers, now = row
        content = {"type": "test", "timestamp": to_text(to_us(now)), "data": {"webhook": webhook}}
        opened = self.sealing.open(signers, webhook)
        id = f"msg_{secrets.token_hex(12)}"
        return Parcel(0, webhook, url, id, json.dumps(content), 0, opened)

    async def forget(self, retention: timedelta) -> None:
        """Delete older events, with their deliveries."""
        async with self.database.connection() as connection:
            await connection.execute("delete from occurrences where at < now() - %s", [retention])

    async def _rows(
        self,
        account: str,
        webhook: str,
        state: str | None = None,
        before: str | None = None,
        limit: int = 1,
        id: str | None = None,
    ) -> list[Delivery]:
        values: dict[str, Any] = {
            "account": account, "webhook": webhook, "state": state, "before": before,
            "limit": limit, "id": id,
        }  # fmt: skip
        async with self.database.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(LIST, values)
            return [Delivery.model_validate(row) for row in await cursor.fetchall()]


def body_of(occurrence: Occurrence) -> str:
    """Return the request body: Standard Webhooks' `type`, `timestamp` and `data`."""
    at = to_text(to_us(occurrence.at))
    return json.dumps({"type": occurrence.type, "timestamp": at, "data": occurrence.data})
