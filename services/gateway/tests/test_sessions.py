"""Sessions, and the tokens of their sockets."""

import secrets

import pytest

from common.errors import Unauthenticated

from .conftest import Desk

PASSWORD = "correct horse battery"


async def register(desk: Desk) -> tuple[str, str]:
    """An account's e-mail address and id."""
    email = f"{secrets.token_hex(6)}@example.com"
    async with desk.http() as http:
        body = {"email": email, "password": PASSWORD}
        answer = await http.post("/v1/api/accounts", json=body)
    assert answer.status_code == 201, answer.text
    return email, answer.json()["data"]["id"]


@pytest.mark.parametrize("cookie", ["__Host-session=of-yesterday", ""])
async def test_who_sends_the_password_is_asked_for_no_session(desk: Desk, cookie: str) -> None:
    email, _ = await register(desk)
    async with desk.http(auth=(email, PASSWORD), headers={"Cookie": cookie}) as http:
        answer = await http.post("/v1/api/socket-tokens")
    assert answer.status_code == 201, answer.text


async def test_a_session_that_ends_meanwhile_gives_no_token(desk: Desk) -> None:
    _, account = await register(desk)
    session = await desk.guards.sessions.begin(account, None)
    await desk.guards.sessions.end(session)
    with pytest.raises(Unauthenticated, match="log in again"):
        await desk.guards.sessions.make_socket_token(account, session)
