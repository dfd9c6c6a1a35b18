"""Periodic deletion of expired rows, by every replica."""

import asyncio
import random

from common.background import Repeated
from common.postgres import Database
from gateway import generations, idempotency, recovery, sessions, usage

TIDY_INTERVAL_S = 600.0
AUDIT = "delete from audit where at < now() - %s * interval '1 day'"
# Nothing refers to a key that cannot be used: the audit and the usage keep its id.
REVOKED_KEYS = "delete from keys where revoked_at < now() - %s * interval '1 day'"


async def tidy(database: Database, *, audit_days: int, key_days: int) -> None:
    """Delete all expired rows; audit entries and revoked keys expire at the given ages."""
    async with database.connection() as connection:
        await idempotency.forget_old(connection)
        await sessions.forget_old(connection)
        await recovery.forget_old(connection)
        await generations.forget_old(connection)
        await usage.forget_old(connection)
        await connection.execute(AUDIT, [audit_days])
        await connection.execute(REVOKED_KEYS, [key_days])


async def keep_tidy(database: Database, *, audit_days: int, key_days: int) -> None:
    """Delete expired rows until canceled."""
    # Replicas that start together must not delete at the same moment.
    await asyncio.sleep(TIDY_INTERVAL_S * random.random())  # noqa: S311  (no secret)

    async def delete_expired() -> None:
        await tidy(database, audit_days=audit_days, key_days=key_days)

    await Repeated(delete_expired, TIDY_INTERVAL_S).run()
