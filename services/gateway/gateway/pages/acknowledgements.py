"""Alerts that an account has acknowledged."""

from datetime import datetime

from common.postgres import Database


class Acknowledgements:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def add(self, account: str, alert: str) -> None:
        """Acknowledge an alert; callers check first that it is the account's."""
        async with self.database.connection() as connection:
            await connection.execute(
                "insert into acknowledged_alerts (account_id, alert_id) values (%s, %s)"
                " on conflict do nothing",
                [account, alert],
            )

    async def find(self, account: str, alerts: list[str]) -> dict[str, datetime]:
        """Return the time of acknowledgement of each acknowledged alert, by id."""
        if not alerts:
            return {}
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select alert_id, at from acknowledged_alerts"
                " where account_id = %s and alert_id = any(%s)",
                [account, alerts],
            )
            rows = await cursor.fetchall()
        return dict(rows)
