"""Incidents as they are stored: at most one open of a rule and a metric of a model."""

import secrets

from psycopg.types.json import Jsonb

from common.contracts.monitoring import Alert, Alerts, AlertsRequest, Rule
from common.postgres import Connection, Database
from metrics.batch import to_time
from metrics.rules import Verdict, type_of

# No two of an account have the same time, so that it says which have been heard.
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


async def raise_alert(
    connection: Connection, account: str, model: str, rule: Rule, metric: str | None,
    verdict: Verdict,
) -> str | None:  # fmt: skip
    """The new incident's id; None when it is open already."""
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
    """`until`: the time of the newest sample, in microseconds since 2000; 0: of none."""
    await connection.execute(RECOVER, [why, to_time(until) if until else None, id])


async def list_alerts(database: Database, account: str, request: AlertsRequest) -> Alerts:
    """Newest first."""
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select id, model, type, message, severity, metric, raised_at, recovered_at, recovery"
            " from alerts where account = %(account)s"
            " and (%(model)s::text is null or model = %(model)s)"
            " and (not %(open)s or recovered_at is null)"
            " and (%(before)s::text is null or number < (select number from alerts"
            "  where account = %(account)s and id = %(before)s))"
            " order by number desc limit %(limit)s",
            {
                "account": account,
                "model": request.model_id,
                "open": request.open_only,
                "before": request.before,
                "limit": request.limit,
            },
        )
        rows = await cursor.fetchall()
    names = (
        "id", "model_id", "type", "message", "severity", "metric", "raised_at", "recovered_at",
        "recovery",
    )  # fmt: skip
    return Alerts(alerts=[Alert(**dict(zip(names, row, strict=True))) for row in rows])
