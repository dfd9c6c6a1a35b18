"""Sessions, and the tokens of their sockets."""

import secrets

import pytest

from common.contracts.access import Access, Credentials, KeyRevoked
from common.errors import Unauthenticated
from gateway import housekeeping
from gateway.accounts import Login

from .conftest import Desk

PASSWORD = "correct horse battery"


async def register(desk: Desk) -> Login:
    email = f"{secrets.token_hex(6)}@example.com"
    async with desk.http() as http:
        body = {"email": email, "password": PASSWORD}
        answer = await http.post("/v1/api/accounts", json=body)
    assert answer.status_code == 201, answer.text
    return await desk.guards.accounts.log_in(email, PASSWORD)


async def opened(desk: Desk) -> tuple[Login, str, str, Access]:
    """Return an account, its session, a socket token of the session, and the token's access."""
    login = await register(desk)
    session = await desk.guards.sessions.begin(login, None)
    token = (await desk.guards.sessions.make_socket_token(login.account, session)).token
    return login, session, token, await desk.guards.authentication.check(Credentials(token=token))


async def test_a_socket_token_connects_for_five_minutes_and_then_lasts_as_long_as_its_session(
    desk: Desk,
) -> None:
    login, session, token, access = await opened(desk)
    guards = desk.guards
    async with guards.sessions.database.connection() as connection:
        await connection.execute(
            "update socket_tokens set expires_at = now() where account_id = %s", [login.account]
        )
    await housekeeping.tidy(guards.sessions.database, audit_days=400, key_days=400)
    with pytest.raises(Unauthenticated, match="expired"):
        await guards.authentication.check(Credentials(token=token))
    connected = Credentials(token=token, connected=True)
    assert await guards.authentication.check(connected) == access
    await guards.sessions.end(session)
    with pytest.raises(Unauthenticated, match="expired"):
        await guards.authentication.check(connected)


@pytest.mark.parametrize("again", [False, True], ids=["logged out", "logged in again"])
async def test_the_end_of_a_session_is_published_with_its_public_id(
    desk: Desk, again: bool
) -> None:
    login, session, _, access = await opened(desk)
    assert access.key
    if again:
        await desk.guards.sessions.begin(login, session)
    else:
        await desk.guards.sessions.end(session)
    [(subject, event)] = desk.events.published
    assert event == KeyRevoked(account=login.account, key=access.key)
    assert subject == f"event.key.revoked.{login.account}.{access.key}"
    assert session not in event.model_dump_json()
