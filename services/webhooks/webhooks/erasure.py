"""Deletion of the webhooks and events of a deleted account."""

from common.bus import Bus
from common.contracts.access import ACCOUNT_DELETED, ACCOUNT_ERASED, AccountDeleted, AccountErased
from common.postgres import Database
from common.service import listens


class Erasure:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus

    @listens(ACCOUNT_DELETED)
    async def erase(self, deleted: AccountDeleted) -> None:
        """Delete the account's webhooks and events, then confirm; harmless if repeated."""
        account = deleted.account
        async with self.database.connection() as connection:
            await connection.execute("delete from webhooks where account = %s", [account])
            await connection.execute("delete from occurrences where account = %s", [account])
        erased = AccountErased(account=account, service="webhooks", settled=deleted.settled)
        await self.bus.publish(ACCOUNT_ERASED, erased, account, "webhooks")
