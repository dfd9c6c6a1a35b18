"""Deletion of an account, and its confirmation by other services."""

import secrets

from common.contracts.access import ACCOUNT_DELETED, AccountErased
from gateway.pages.publications import Publications

from .conftest import Desk

PASSWORD = "correct horse battery"


async def test_a_deleted_account_is_inaccessible_and_is_published_until_every_service_confirms(
    desk: Desk,
) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    deletion, database = desk.guards.deletion, desk.guards.accounts.database
    async with desk.http() as http:
        body = {"email": email, "password": PASSWORD}
        account = (await http.post("/v1/api/accounts", json=body)).json()["data"]["id"]
        auth = (email, PASSWORD)
        key = (await http.post("/v1/api/keys", json={"name": "x"}, auth=auth)).json()["data"]

        run = f"bench_{secrets.token_hex(12)}"
        publications = Publications(database)
        await publications.publish(account, run)
        assert await publications.owner(run) == account

        async def delete(password: str) -> int:
            answer = await http.request(
                "DELETE", "/v1/api/account", json={"password": password}, auth=auth
            )
            return answer.status_code

        assert await delete("a guess that is wrong") == 400
        assert await delete(PASSWORD) == 204
        assert await publications.owner(run) is None
        bearer = {"Authorization": f"Bearer {key['key']}"}
        assert (await http.post("/v1/api/echo", json={}, headers=bearer)).status_code == 401
        assert (await http.get("/v1/api/account", auth=auth)).status_code == 401
        # The address is free again, for an account that has nothing of the first.
        again = (await http.post("/v1/api/accounts", json=body)).json()["data"]["id"]
        assert again != account
        assert (await http.get("/v1/api/keys", auth=auth)).json()["data"]["keys"] == []

    def published() -> list[bool]:
        subject = f"{ACCOUNT_DELETED.subject}.{account}.all"
        return [body.settled for name, body in desk.events.published if name == subject]

    async def pending() -> int:
        async with database.connection() as connection:
            cursor = await connection.execute(
                "select count(*) from deletions where account_id = %s", [account]
            )
            [(count,)] = await cursor.fetchall()
        return int(count)

    assert published() == [False]
    await deletion.publish_due()  # not due yet
    assert published() == [False]
    for service in ("metrics", "benchmarker", "webhooks"):
        await deletion.confirm(AccountErased(account=account, service=service, settled=False))
    assert await pending() == 1
    async with database.connection() as connection:
        await connection.execute(
            "update deletions set due_at = now(), requested_at = now() - interval '1 hour'"
            " where account_id = %s",
            [account],
        )
    await deletion.publish_due()
    assert published() == [False, True]
    await deletion.confirm(AccountErased(account=account, service="metrics", settled=True))
    assert await pending() == 1
    await deletion.confirm(AccountErased(account=account, service="benchmarker", settled=True))
    assert await pending() == 1
    await deletion.confirm(AccountErased(account=account, service="webhooks", settled=True))
    assert await pending() == 0
