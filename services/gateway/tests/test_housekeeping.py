"""Deletion of expired rows."""

from gateway import housekeeping

from .conftest import Desk


async def test_audit_rows_and_revoked_keys_are_deleted_at_the_ages_that_settings_give(
    desk: Desk,
) -> None:
    database = desk.guards.accounts.database
    accounts = [(await desk.key())[0] for _ in range(3)]
    for account in accounts:
        [stored] = (await desk.keyring.list(account)).keys
        if account != accounts[0]:
            await desk.keyring.revoke(account, stored.id)
    async with database.connection() as connection:
        await connection.execute("delete from audit where account_id = any(%s)", [accounts])
        for account, days in zip(accounts, (400, 8, 6), strict=True):
            await connection.execute(
                "update keys set created_at = now() - %s * interval '1 day', revoked_at ="
                " revoked_at - %s * interval '1 day' where account_id = %s",
                [days, days, account],
            )
            await connection.execute(
                "insert into audit (at, act, account_id, address, request_id, details) values"
                " (now() - %s * interval '1 day', 'registered', %s, '', '', '{}')",
                [days / 2, account],
            )
    await housekeeping.tidy(database, audit_days=100, key_days=7)
    async with database.connection() as connection:
        left = {}
        for table in ("keys", "audit"):
            cursor = await connection.execute(
                f"select account_id from {table} where account_id = any(%s)",
                [accounts],
            )
            left[table] = {account for (account,) in await cursor.fetchall()}
    assert left == {"keys": {accounts[0], accounts[2]}, "audit": {*accounts[1:]}}
