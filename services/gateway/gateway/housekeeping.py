"""Deletion of expired rows, by the first replica that finds them."""

import asyncio
import random

import structlog

from common.errors import ServiceError
from common.postgres import Database
from gateway import generations, idempotency, recovery, sessions, usage

log = structlog.get_logger()

# On average; a few rows more or less change nothing.
INTERVAL_S = 600.0
# Age at which rows of the audit are deleted.
AUDIT_RETENTION_DAYS = 400


async def tidy(database: Database) -> None:
    async with database.connection() as connection:
        await idempotency.forget_old(connection)
        await sessions.forget_old(connection)
        await recovery.forget_old(connection)
        await generations.forget_old(connection)
        await usage.forget_old(connection)
        await connection.execute(
            "delete from audit where at < now() - %s * interval '1 day'", [AUDIT_RETENTION_DAYS]
        )


async def keep_tidy(database: Database) -> None:
    """Delete expired rows until canceled."""
    while True:
        # Not all replicas at the same moment.
        await asyncio.sleep(INTERVAL_S * random.uniform(0.5, 1.5))  # noqa: S311  (no secret)
        try:
            await tidy(database)
        except ServiceError as error:
            log.warning("expired rows not deleted", error=error.message)
