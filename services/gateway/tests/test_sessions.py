"""Sessions, and the tokens of their sockets."""

import secrets

import pytest

from common.contracts.access import Access, Credentials, KeyRevoked
from common.errors import Unauthenticated
from gateway import housekeeping

from .conftest import Desk

PASSWORD = "correct horse battery"


async def register(desk: Desk) -> str:
    """An account's id."""
    email = f"{secrets.token_hex(6)}@example.com"
    async with desk.http() as http:
        body = {"email": email, "password": PASSWORD}
        answer = await http.post("/v1/api/accounts", json=body)
    assert answer.status_code == 201, answer.text
    account: str = answer.json()["data"]["id"]
    return account


async def opened(desk: Desk) -> tuple[str, str, str, Access]:
    """An account, its session, a socket's token of that, and what the token opens."""
    account = await register(desk)
    session = await desk.guards.sessions.begin(account, None)
    token = (await desk.guards.sessions.make_socket_token(account, session)).token
    return account, session, token, await desk.guards.authentication.check(Credentials(token=token))


async def test_a_sockets_token_is_good_for_connecting_shortly_and_then_with_its_session(
    desk: Desk,
) -> None:
    account, session, token, access = await opened(desk)
    guards = desk.guards
    async with guards.sessions.database.connection() as connection:
        await connection.execute(
            "update socket_tokens set expires_at = now() where account_id = %s", [account]
        )
    await housekeeping.tidy(guards.sessions.database)
    with pytest.raises(Unauthenticated, match="expired"):
        await guards.authentication.check(Credentials(token=token))
    connected = Credentials(token=token, connected=True)
    assert await guards.authentication.check(connected) == access
    await guards.sessions.end(session)
    with pytest.raises(Unauthenticated, match="expired"):
        await guards.authentication.check(connected)


@pytest.mark.parametrize("again", [False, True], ids=["logged out", "logged in again"])
async def test_the_end_of_a_session_is_told_with_what_its_sockets_are_known_by(
    desk: Desk, again: bool
) -> None:
    account, session, _, access = await opened(desk)
    assert access.key
    if again:
        await desk.guards.sessions.begin(account, session)
    else:
        await desk.guards.sessions.end(session)
    [(subject, event)] = desk.events.published
    assert event == KeyRevoked(account=account, key=access.key)
    assert subject == f"event.key.revoked.{account}.{access.key}"
    assert session not in event.model_dump_json()
