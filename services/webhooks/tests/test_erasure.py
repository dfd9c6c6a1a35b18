"""The data of a deleted account is deleted."""

from webhook_receiver import Receiver, Someone

from common.contracts.access import ACCOUNT_ERASED, AccountDeleted
from common.postgres import Database
from common.testing import MemoryBus
from webhooks.erasure import Erasure


async def test_a_deleted_accounts_webhooks_and_events_are_deleted_and_confirmed(
    someone: Someone, receiver: Receiver, database: Database
) -> None:
    await someone.add(receiver.url)
    await someone.happen()
    bus = MemoryBus()
    await Erasure(database, bus).erase(AccountDeleted(account=someone.account, settled=True))
    async with database.connection() as connection:
        for table in ("webhooks", "occurrences", "deliveries"):
            cursor = await connection.execute(
                f"select from {table} where account = %s".encode(),
                [someone.account],
            )
            assert await cursor.fetchall() == []
    subject = f"{ACCOUNT_ERASED.subject}.{someone.account}.webhooks"
    assert [published for published, _ in bus.published] == [subject]
