"""Deletion of all data of a deleted account."""

from common.bus import Bus
from common.contracts.access import ACCOUNT_DELETED, ACCOUNT_ERASED, AccountDeleted, AccountErased
from common.postgres import Connection, Database
from common.service import listens

OF_ACCOUNT = ("holding", "alerts", "rules", "usage", "descriptions")
# On TimescaleDB `hours` and `days` are aggregates, refreshed from the samples.
OF_SERIES = ("samples", "staged", "late", "stale", "hours", "days")


class Erasure:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus

    @listens(ACCOUNT_DELETED)
    async def erase(self, deleted: AccountDeleted) -> None:
        """Delete the account's series, rules and alerts, then confirm; idempotent."""
        account = deleted.account
        async with self.database.connection() as connection:
            cursor = await connection.execute("select id from series where account = %s", [account])
            series = [row[0] for row in await cursor.fetchall()]
            for table in await _tables(connection) if series else ():
                await connection.execute(
                    f"delete from {table} where series = any(%s)".encode(),  # noqa: S608  (a constant)
                    [series],
                )
            for table in (*OF_ACCOUNT, "series"):
                await connection.execute(
                    f"delete from {table} where account = %s".encode(),  # noqa: S608  (a constant)
                    [account],
                )
        erased = AccountErased(account=account, service="metrics", settled=deleted.settled)
        await self.bus.publish(ACCOUNT_ERASED, erased, account, "metrics")


async def _tables(connection: Connection) -> list[str]:
    """Return the tables of `OF_SERIES` that exist in this database."""
    cursor = await connection.execute(
        "select relname from pg_class where relname = any(%s) and relkind in ('r', 'p')"
        " and relnamespace = current_schema()::regnamespace",
        [list(OF_SERIES)],
    )
    return [row[0] for row in await cursor.fetchall()]
