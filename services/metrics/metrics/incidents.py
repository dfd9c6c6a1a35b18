"""Stored incidents: at most one is open per rule, model and metric."""

import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from psycopg.types.json import Jsonb

from common.contracts.alerts import Alert, Alerts, AlertsRequest, Rule
from common.contracts.timestamps import from_us
from common.faults import unknown_before
from common.postgres import Connection, Database
from metrics.rules import Verdict, type_of

# No two alerts of an account have the same time, so a time says which ones were received.
RAISE = """
insert into alerts (id, account, model, metric, rule, type, severity, message, expected, raised_at)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp())
on conflict (account, model, rule, coalesce(metric, '')) where recovered_at is null do nothing
returning id
"""
RECOVER = """
update alerts set recovered_at = clock_timestamp(), recovery = %s, until = %s
where id = %s and recovered_at is null
"""
# When a rule's condition began to hold, by the times of samples.
HOLD = """
insert into holding (account, model, metric, rule, since) values (%s, %s, %s, %s, %s)
on conflict (account, model, rule, metric)
    do update set since = least(holding.since, excluded.since)
returning since
"""
RELEASE = "delete from holding where account = %s and model = %s and metric = %s and rule = %s"


async def has_held(
    connection: Connection, account: str, model: str, rule: Rule, metric: str | None,
    verdict: Verdict,
) -> bool:  # fmt: skip
    """Return whether a condition has held for the rule's minutes; store when it began."""
    if not rule.for_minutes:
        return verdict.cause is not None
    which = [account, model, metric or "", rule.id]
    if not (verdict.cause and verdict.lasts):
        await connection.execute(RELEASE, which)
        return False
    newest = from_us(verdict.until)
    row = await (await connection.execute(HOLD, [*which, newest])).fetchone()
    return row is not None and newest - row[0] >= timedelta(minutes=rule.for_minutes)


async def raise_alert(
    connection: Connection, account: str, model: str, rule: Rule, metric: str | None,
    verdict: Verdict,
) -> str | None:  # fmt: skip
    """Store an incident; return its id, None if one is open already."""
    cursor = await connection.execute(
        RAISE,
        [
            f"alert_{secrets.token_hex(12)}", account, model, metric, rule.id,
            type_of(rule, metric), verdict.severity or rule.severity, f"{model}: {verdict.cause}",
            Jsonb(verdict.expected) if verdict.expected else None,
        ],
    )  # fmt: skip
    row = await cursor.fetchone()
    return row[0] if row else None


async def recover(connection: Connection, id: str, why: str, until: int) -> None:
    """End an incident; `until` is its newest sample in microseconds since 2000, or 0."""
    await connection.execute(RECOVER, [why, from_us(until) if until else None, id])


# In the order of an alert's fields.
ALERT_COLUMNS = (
    "id, rule, model, type, message, severity, metric, raised_at, recovered_at, recovery"
)
LIST = f"""
select {ALERT_COLUMNS} from alerts where account = %(account)s
    and (%(model)s::text is null or model = %(model)s)
    and (not %(open)s or recovered_at is null)
    and (%(before)s::text is null or number < (
        select number from alerts where account = %(account)s and id = %(before)s
    ))
order by number desc limit %(limit)s
"""  # noqa: S608  (constants)


async def list_alerts(database: Database, account: str, request: AlertsRequest) -> Alerts:
    """List alerts, newest first.

    Raises:
        InvalidRequest: the account has no alert with the id `before`.
    """
    async with database.connection() as connection:
        cursor = await connection.execute(
            LIST,
            {
                "account": account,
                "model": request.model_id,
                "open": request.open_only,
                "before": request.before,
                "limit": request.limit,
            },
        )
        rows = await cursor.fetchall()
        if not rows and request.before is not None:
            cursor = await connection.execute(
                "select from alerts where account = %s and id = %s", [account, request.before]
            )
            if await cursor.fetchone() is None:
                raise unknown_before()
    return Alerts(alerts=[alert_of(row) for row in rows])


def alert_of(columns: Sequence[Any]) -> Alert:
    """Return the alert in a row of `ALERT_COLUMNS`."""
    return Alert(**dict(zip(Alert.model_fields, columns, strict=True)))
