"""The tenants among whom the queue of runs is shared: accounts, or networks of new accounts."""

import dataclasses

from common import context
from common.postgres import Database
from gateway import audit

# Time after which an account is a tenant of its own although its address is unconfirmed: where no
# mail is sent, no address can be confirmed.
MAX_NEW_DAYS = 7
IS_NEW = f"""
select from accounts
where id = %s and confirmed_at is null and created_at > now() - interval '{MAX_NEW_DAYS} days'
"""


async def set_tenant(database: Database, account: str) -> None:
    """Have the current request's runs counted for the caller's network if the account is new.

    Otherwise whoever registers many accounts would get many turns in the queue. A confirmed
    address, or an account of a week, has turns of its own.
    """
    async with database.connection() as connection:
        cursor = await connection.execute(IS_NEW.encode(), [account])
        is_new = await cursor.fetchone() is not None
    if is_new:
        tenant = dataclasses.replace(context.current.get(), tenant=audit.network())
        context.current.set(tenant)
