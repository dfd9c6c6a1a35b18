"""Runs that their account has made public, each at a permanent URL."""

from common.postgres import Database
from gateway import audit


class Publications:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def publish(self, account: str, run: str) -> None:
        """Make a run public; callers check first that it is the account's."""
        async with self.database.connection() as connection:
            await connection.execute(
                "insert into published_runs (id, account_id) values (%s, %s)"
                " on conflict (id) do nothing",
                [run, account],
            )
            await audit.record(connection, "run_published", account, run=audit.as_id(run))

    async def withdraw(self, account: str, run: str) -> None:
        async with self.database.connection() as connection:
            await connection.execute(
                "delete from published_runs where id = %s and account_id = %s", [run, account]
            )
            await audit.record(connection, "run_withdrawn", account, run=audit.as_id(run))

    async def owner(self, run: str) -> str | None:
        """Return the account that made the run public, if any."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id from published_runs where id = %s", [run]
            )
            row = await cursor.fetchone()
        return row[0] if row else None
