"""Forgetting what is over, now and then, by whichever replica comes to it."""

import asyncio
import random

import structlog

from common.errors import ServiceError
from common.postgres import Database
from gateway import idempotency, sessions

log = structlog.get_logger()

# In seconds; a few rows more or less change nothing.
EVERY = 600.0
# The acts are kept for so long, in days.
AUDIT_KEPT = 400


async def tidy(database: Database) -> None:
    async with database.connection() as connection:
        await idempotency.forget_old(connection)
        await sessions.forget_old(connection)
        await connection.execute(
            "delete from audit where at < now() - %s * interval '1 day'", [AUDIT_KEPT]
        )


async def keep_tidy(database: Database) -> None:
    """Until canceled."""
    while True:
        # Not all replicas at the same moment.
        await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))  # noqa: S311  (no secret)
        try:
            await tidy(database)
        except ServiceError as error:
            log.warning("not tidied", error=error.message)
