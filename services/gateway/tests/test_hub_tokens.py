"""An account's own Hub token: stored encrypted, tested, deleted, never shown."""

import secrets
from typing import Any

import httpx2
import pytest
from cryptography.fernet import Fernet

from common.contracts.hub import (
    CHECK_HUB_TOKEN,
    HubIdentity,
    HubTokenCheck,
    HubTokenRequest,
)
from common.encryption import Encryption
from common.errors import InvalidRequest, Unavailable
from common.postgres import Database
from gateway import rotation
from gateway.hub_tokens import HubTokens, NewHubToken
from local.stack import Stack

from .conftest import KEY, Desk

TOKEN = "hf_of_a_person"
PASSWORD = "correct horse battery"
PATH = "/v1/api/account/hub-token"


@pytest.fixture
async def person(desk: Desk) -> Any:
    """Yield an account's id and a logged-in client, with a Hub that accepts one token."""

    async def check(request: HubTokenCheck) -> HubIdentity:
        if request.token != TOKEN:
            raise InvalidRequest(
                "token: is not accepted", fields=[{"path": "token", "message": "is not accepted"}]
            )
        return HubIdentity(user="person", role="read")

    desk.events.answer(CHECK_HUB_TOKEN, check)
    email = f"{secrets.token_hex(8)}@example.com"
    async with desk.http(auth=httpx2.BasicAuth(email, PASSWORD)) as http:
        registered = await http.post(
            "/v1/api/accounts", json={"email": email, "password": PASSWORD}
        )
        yield registered.json()["data"]["id"], http


def tokens(desk: Desk, *keys: str) -> HubTokens:
    return HubTokens(desk.guards.accounts.database, desk.events, Encryption(keys))


async def test_a_token_is_stored_encrypted_tested_and_never_shown(
    desk: Desk, person: Any, database: Database
) -> None:
    account, http = person
    assert (await http.get("/v1/api/account")).json()["data"]["hubToken"] is None
    stored = await http.put(PATH, json={"token": TOKEN})
    assert stored.status_code == 200, stored.text
    tested = await http.post(f"{PATH}/test")
    shown = await http.get("/v1/api/account")
    assert shown.json()["data"]["hubToken"] == tested.json()["data"]
    assert shown.json()["data"]["hubToken"]["user"] == "person"
    async with database.connection() as connection:
        cursor = await connection.execute("select hub_tokens::text, token from hub_tokens")
        rows = await cursor.fetchall()
        cursor = await connection.execute("select audit::text from audit")
        audited = await cursor.fetchall()
    answers = "".join((stored.text, tested.text, shown.text, str(rows), str(audited)))
    assert TOKEN not in answers
    assert TOKEN.encode() not in b"".join(bytes(row[1]) for row in rows)
    assert "hub_token_stored" in str(audited)
    hub_token = await tokens(desk, KEY).find(HubTokenRequest(account=account))
    assert hub_token.token == TOKEN
    assert TOKEN not in repr(hub_token)


async def test_a_token_that_the_hub_does_not_accept_is_not_stored(person: Any) -> None:
    _, http = person
    for body in ({"token": "hf_of_nobody"}, {"token": "two words"}, {"token": ""}, {}):
        refused = await http.put(PATH, json=body)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, 1003)
        assert refused.json()["error"]["details"]["fields"][0]["path"] == "token"
        assert "hf_of_nobody" not in refused.text
    assert (await http.get("/v1/api/account")).json()["data"]["hubToken"] is None


async def test_a_token_that_the_hub_no_longer_accepts_fails_its_test(
    desk: Desk, person: Any
) -> None:
    _, http = person
    await http.put(PATH, json={"token": TOKEN})

    async def refuse(_: HubTokenCheck) -> HubIdentity:
        raise InvalidRequest("token: is not accepted")

    desk.events.answer(CHECK_HUB_TOKEN, refuse)
    failed = await http.post(f"{PATH}/test")
    assert (failed.status_code, failed.json()["error"]["code"]) == (422, 1002)
    assert failed.json()["error"]["details"] == {"reason": "hub-token"}


async def test_a_deleted_token_and_a_deleted_accounts_token_are_removed(
    desk: Desk, person: Any, database: Database
) -> None:
    account, http = person
    await http.put(PATH, json={"token": TOKEN})
    assert (await http.delete(PATH)).status_code == 204
    assert (await http.delete(PATH)).status_code == 404
    assert (await http.post(f"{PATH}/test")).status_code == 404
    hub_token = await tokens(desk, KEY).find(HubTokenRequest(account=account))
    assert hub_token.token is None
    await http.put(PATH, json={"token": TOKEN})
    gone = await http.request("DELETE", "/v1/api/account", json={"password": PASSWORD})
    assert gone.status_code == 204, gone.text
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select 1 from hub_tokens where account_id = %s", [account]
        )
        assert await cursor.fetchone() is None


async def test_a_hub_token_is_decrypted_only_for_its_account_and_with_its_key(
    desk: Desk, person: Any, database: Database
) -> None:
    account, http = person
    await http.put(PATH, json={"token": TOKEN})
    request, new = HubTokenRequest(account=account), Fernet.generate_key().decode()
    assert (await tokens(desk, new, KEY).find(request)).token == TOKEN
    assert (await tokens(desk, new).find(request)).token is None
    assert (await tokens(desk).find(request)).token is None
    with pytest.raises(Unavailable, match="ENCRYPTION_KEYS"):
        await tokens(desk).store(account, NewHubToken(token=TOKEN))
    other = await desk.key()
    async with database.connection() as connection:  # copied into another account's row
        await connection.execute(
            "insert into hub_tokens select %s, token, hub_user, role from hub_tokens"
            " where account_id = %s",
            [other[0], account],
        )
    assert (await tokens(desk, KEY).find(HubTokenRequest(account=other[0]))).token is None


async def test_the_rotation_command_re_encrypts_secrets_so_that_the_old_key_can_be_dropped(
    desk: Desk,
    person: Any,
    servers: Stack,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    account, http = person
    await http.put(PATH, json={"token": TOKEN})
    started = await http.post("/v1/api/account/totp", json={"password": PASSWORD})
    app = started.json()["data"]["secret"]
    request, new = HubTokenRequest(account=account), Fernet.generate_key().decode()
    monkeypatch.setenv("DATABASE_URL", servers.postgres.url("gateway"))
    for keys, status, said in (
        (new, 1, "0 secrets encrypted anew"),  # the old key is missing: nothing changes
        (f"{new},{KEY}", 0, " 0 had the first key already, 0 cannot"),
        (new, 0, "0 secrets encrypted anew"),
    ):
        monkeypatch.setenv("ENCRYPTION_KEYS", keys)
        assert await rotation.main() == status
        assert said in capsys.readouterr().out
    assert (await tokens(desk, new).find(request)).token == TOKEN
    assert (await tokens(desk, KEY).find(request)).token is None
    async with desk.guards.accounts.database.connection() as connection:
        cursor = await connection.execute(
            "select secret from second_factors where account_id = %s", [account]
        )
        [row] = await cursor.fetchall()
    assert Encryption([new]).decrypt(row[0], account) == app


async def test_an_api_key_can_neither_store_nor_delete_the_hub_token(desk: Desk) -> None:
    _, key = await desk.key()
    async with desk.http(headers={"Authorization": f"Bearer {key}"}) as http:
        assert (await http.put(PATH, json={"token": TOKEN})).status_code == 401
        assert (await http.delete(PATH)).status_code == 401


async def test_the_token_can_be_stored_tested_and_deleted_on_the_account_page(
    desk: Desk, person: Any
) -> None:
    account, _ = person
    email = (await desk.guards.accounts.get(account)).email
    here = {"Sec-Fetch-Site": "same-origin"}
    async with desk.http(headers=here) as http:
        login = await http.post("/login", data={"email": email, "password": PASSWORD})
        http.headers["Cookie"] = login.headers["set-cookie"].partition(";")[0]

        async def post(**fields: str) -> str:
            answer = await http.post("/dashboard/account/hub-token", data=fields)
            assert TOKEN not in answer.text
            return answer.text

        assert "s not accepted" in await post(act="store", token="hf_of_nobody")
        assert "<b>person</b>" in await post(act="store", token=TOKEN)
        assert "The Hub accepts the token." in await post(act="test")
        assert "The Hub token is deleted." in await post(act="delete")
