"""Deletion of a deleted account's runs."""

from benchmarker.queue import JobQueue
from benchmarker.runs import RunStore
from common.bus import Bus
from common.contracts.access import ACCOUNT_DELETED, ACCOUNT_ERASED, AccountDeleted, AccountErased
from common.service import listens


class Erasure:
    def __init__(self, runs: RunStore, queue: JobQueue, bus: Bus) -> None:
        self.runs = runs
        self.queue = queue
        self.bus = bus

    @listens(ACCOUNT_DELETED)
    async def erase(self, deleted: AccountDeleted) -> None:
        """Cancel and delete the account's runs, then confirm; idempotent."""
        account = deleted.account
        async with self.runs.database.connection() as connection:
            cursor = await connection.execute(
                "select id, kind from runs where account = %s and state in ('queued', 'running')",
                [account],
            )
            unfinished = await cursor.fetchall()
        for id, kind in unfinished:
            change, sequence = await self.runs.cancel(account, id, kind, lambda _: None)
            await self.queue.withdraw(change, sequence)
        async with self.runs.database.connection() as connection:
            await connection.execute("delete from runs where account = %s", [account])
        erased = AccountErased(account=account, service="benchmarker", settled=deleted.settled)
        await self.bus.publish(ACCOUNT_ERASED, erased, account, "benchmarker")
