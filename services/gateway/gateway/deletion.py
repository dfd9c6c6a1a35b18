"""Deletion of an account: at once in the gateway, then published until each service confirms.

A deletion is a row in the transaction that deletes the account, so it outlives any process.
A request that was under way may still write something, and a key is trusted for some
seconds elsewhere: only what is confirmed after `SETTLED_S` counts.
"""

import nats.errors
import structlog

from common.background import Repeated
from common.bus import Bus
from common.contracts.access import (
    ACCOUNT_DELETED,
    ACCOUNT_ERASED,
    AccountDeleted,
    AccountErased,
)
from common.postgres import Database
from common.service import listens
from gateway import audit
from gateway.account_fields import AccountDeletion
from gateway.accounts import Accounts
from gateway.sessions import Sessions, session_ids

log = structlog.get_logger()

# Services that store data of an account.
KEEPERS = ["benchmarker", "metrics", "webhooks"]
SETTLED_S = 30
REPEAT_S = 10
PUBLISH_INTERVAL_S = 5.0

DUE = f"""
update deletions set due_at = now() + interval '{REPEAT_S} seconds'
where account_id in (
    select account_id from deletions where due_at <= now() limit 100 for update skip locked
)
returning account_id, requested_at < now() - interval '{SETTLED_S} seconds'
"""  # noqa: S608  (constants)


class Deletion:
    def __init__(
        self, database: Database, bus: Bus, accounts: Accounts, sessions: Sessions
    ) -> None:
        self.database = database
        self.bus = bus
        self.accounts = accounts
        self.sessions = sessions

    async def delete(self, account: str, credentials: AccountDeletion, *, owes_code: bool) -> None:
        """Delete the account with all its data.

        Raises:
            InvalidRequest: the password, or the code of the second factor, is wrong.
            RateLimited: too many wrong ones.
        """
        await self.accounts.check_password(
            account, "password", credentials.password, credentials.code, owes_code=owes_code
        )
        async with self.database.connection() as connection:
            await connection.execute(
                "insert into deletions (account_id, awaited) values (%s, %s)"
                " on conflict do nothing",
                [account, KEEPERS],
            )
            cursor = await connection.execute(
                "select id from keys where account_id = %s and revoked_at is null", [account]
            )
            ended = [row[0] for row in await cursor.fetchall()]
            ended += await session_ids(connection, account)
            await connection.execute("delete from accounts where id = %s", [account])
            await audit.record(connection, "account_deleted", account)
        await self.sessions.publish_ends(account, ended)
        await self.publish_due()

    async def publish_due(self) -> None:
        """Publish each due deletion, again every `REPEAT_S` until all services confirm it."""
        async with self.database.connection() as connection:
            due = await (await connection.execute(DUE.encode())).fetchall()
        for account, settled in due:
            body = AccountDeleted(account=account, settled=settled)
            try:
                await self.bus.publish(ACCOUNT_DELETED, body, account, "all")
            except (nats.errors.Error, OSError):
                log.warning("deletion not published", account=account)

    @listens(ACCOUNT_ERASED)
    async def confirm(self, erased: AccountErased) -> None:
        """Record that a service has deleted its data; the last confirmation ends the deletion."""
        if not erased.settled:
            return
        async with self.database.connection() as connection:
            await connection.execute(
                "update deletions set awaited = array_remove(awaited, %s) where account_id = %s",
                [erased.service, erased.account],
            )
            await connection.execute(
                "delete from deletions where account_id = %s and awaited = '{}'", [erased.account]
            )

    async def keep_publishing(self) -> None:
        """Publish deletions until canceled."""
        await Repeated(self.publish_due, PUBLISH_INTERVAL_S).run()
