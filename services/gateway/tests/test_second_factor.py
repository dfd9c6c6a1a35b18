"""The second factor: set-up, a code with each password, codes valid once, and disabling."""

import re
import secrets
import time
from typing import Any

import httpx2
import pyotp
import pytest

from common.postgres import Database
from gateway import second_factor
from gateway.recovery import make_link
from gateway.second_factor import STEP_S
from gateway.windows import Policy
from local.stack import Stack

from .conftest import Desk

PASSWORD = "correct horse battery"
HERE = {"Sec-Fetch-Site": "same-origin"}
TOTP = "/v1/api/account/totp"


class Person:
    """An account with a second factor, and its app, whose clock only goes forward."""

    def __init__(self, http: httpx2.AsyncClient, email: str) -> None:
        self.http, self.email = http, email
        self.codes: list[str] = []
        self.secret = ""

    def code(self, later: int = 0) -> str:
        """Return the code of a time step from now."""
        return pyotp.TOTP(self.secret).at(int(time.time()) + later * STEP_S)

    async def send(self, method: str, path: str, code: str = "", **options: Any) -> httpx2.Response:
        headers = {"X-Lilypad-Code": code} if code else {}
        auth = httpx2.BasicAuth(self.email, PASSWORD)
        return await self.http.request(method, path, headers=headers, auth=auth, **options)

    async def log_in(self, password: str = PASSWORD, **fields: str) -> httpx2.Response:
        """Post the form of the login page."""
        self.http.cookies.clear()
        form = fields or {"email": self.email, "password": password}
        return await self.http.post("/login", data=form, headers=HERE)


@pytest.fixture
async def person(desk: Desk) -> Any:
    email = f"{secrets.token_hex(8)}@example.com"
    async with desk.http() as http:
        person_with_app = Person(http, email)
        body = {"email": email, "password": PASSWORD}
        assert (await http.post("/v1/api/accounts", json=body)).status_code == 201
        started = await person_with_app.send("POST", TOTP, json={"password": PASSWORD})
        assert started.status_code == 201, started.text
        person_with_app.secret = started.json()["data"]["secret"]
        assert person_with_app.secret in started.json()["data"]["uri"]
        # Nothing has changed until the first code.
        assert (await person_with_app.send("GET", "/v1/api/account")).json()["data"][
            "totp"
        ] is False
        for wrong in ("000000", "no digits"):
            refused = await person_with_app.send("POST", f"{TOTP}/confirm", json={"code": wrong})
            assert refused.json()["error"]["details"]["fields"][0]["path"] == "code"
        answer = await person_with_app.send(
            "POST", f"{TOTP}/confirm", json={"code": person_with_app.code(-1)}
        )
        assert answer.status_code == 200, answer.text
        person_with_app.codes = answer.json()["data"]["recoveryCodes"]
        yield person_with_app


async def test_a_password_alone_is_refused_and_each_code_works_once(person: Person) -> None:
    alone = await person.send("GET", "/v1/api/account")
    error = alone.json()["error"]
    assert (alone.status_code, error["code"], error["details"]) == (401, 2001, {"reason": "totp"})
    assert "X-Lilypad-Code" in error["message"]
    assert (await person.send("GET", "/v1/api/account", person.code(-1))).status_code == 401
    code = person.code()
    answer = await person.send("GET", "/v1/api/account", code)
    assert answer.json()["data"]["totp"] is True
    assert (await person.send("GET", "/v1/api/account", code)).status_code == 401
    # An earlier code is refused too, although it was never sent.
    assert (await person.send("GET", "/v1/api/account", person.code(-1))).status_code == 401
    assert (await person.send("GET", "/v1/api/account", person.code(1))).status_code == 200


async def test_a_recovery_code_works_once_and_is_stored_as_a_hash(
    person: Person, database: Database
) -> None:
    assert len(set(person.codes)) == 10
    first = person.codes[0]
    assert (await person.send("GET", "/v1/api/account", first.upper())).status_code == 200
    assert (await person.send("GET", "/v1/api/account", first)).status_code == 401
    assert (await person.send("GET", "/v1/api/account", person.codes[1])).status_code == 200
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select second_factors::text, recovery_codes::text from second_factors"
            " join recovery_codes using (account_id)"
        )
        stored = str(await cursor.fetchall())
    assert person.secret not in stored
    assert not any(code in stored for code in person.codes)


async def test_the_page_asks_for_the_code_in_a_second_step(person: Person) -> None:
    wrong = await person.log_in(password="not the password")
    assert wrong.status_code == 401
    assert "challenge" not in wrong.text
    first = await person.log_in()
    assert first.status_code == 200
    assert "set-cookie" not in first.headers
    [challenge] = re.findall(r'name="challenge" value="([^"]+)"', first.text)
    assert PASSWORD not in first.text
    again = await person.log_in(challenge=challenge, code="000000")
    assert again.status_code == 401
    assert challenge in again.text
    done = await person.log_in(challenge=challenge, code=person.code())
    assert (done.status_code, done.headers["location"]) == (303, "/dashboard")
    replayed = await person.log_in(challenge=challenge, code=person.code())
    assert "set-cookie" not in replayed.headers
    made_up = await person.log_in(challenge=challenge[:-4] + "AAA=", code=person.codes[0])
    assert made_up.status_code == 401
    assert 'name="password"' in made_up.text


async def test_a_session_alone_neither_changes_the_password_nor_deletes_the_account(
    person: Person,
) -> None:
    first = await person.log_in()
    [challenge] = re.findall(r'name="challenge" value="([^"]+)"', first.text)
    done = await person.log_in(challenge=challenge, code=person.codes[0])
    headers = {"Cookie": done.headers["set-cookie"].partition(";")[0], **HERE}
    change = {"current": PASSWORD, "new": "staple a longer battery"}
    for method, path, body in (
        ("POST", "/v1/api/account/password", change),
        ("DELETE", "/v1/api/account", {"password": PASSWORD}),
        ("DELETE", TOTP, {"password": PASSWORD}),
    ):
        for more in ({}, {"code": "000000"}):
            answer = await person.http.request(method, path, json={**body, **more}, headers=headers)
            assert answer.status_code == 400, (path, answer.text)
            assert answer.json()["error"]["details"]["fields"][0]["path"] == "code"
    body = {**change, "code": person.codes[1]}
    done = await person.http.post("/v1/api/account/password", json=body, headers=headers)
    assert done.status_code == 204, done.text


async def test_a_second_factor_is_switched_off_with_a_code_and_can_be_set_up_again(
    person: Person,
) -> None:
    twice = await person.send("POST", TOTP, person.codes[0], json={"password": PASSWORD})
    assert (twice.status_code, twice.json()["error"]["code"]) == (409, 3002)
    gone = await person.send("DELETE", TOTP, person.codes[1], json={"password": PASSWORD})
    assert gone.status_code == 204, gone.text
    assert (await person.send("GET", "/v1/api/account")).json()["data"]["totp"] is False
    assert (await person.send("GET", "/v1/api/account", person.codes[2])).status_code == 200
    confirm = await person.send("POST", f"{TOTP}/confirm", json={"code": person.code()})
    assert (confirm.status_code, confirm.json()["error"]["code"]) == (409, 3002)


async def test_a_request_with_http_basic_may_have_the_code_in_its_body(person: Person) -> None:
    change = {"current": PASSWORD, "new": "staple a longer battery"}
    for method, path, body in (
        ("POST", "/v1/api/account/password", change),
        ("DELETE", "/v1/api/account", {"password": PASSWORD}),
        ("DELETE", TOTP, {"password": PASSWORD}),
    ):
        for more in ({}, {"code": "000000"}):
            answer = await person.send(method, path, json={**body, **more})
            assert answer.status_code == 400, (path, answer.text)
            assert answer.json()["error"]["details"]["fields"][0]["path"] == "code"
    assert (await person.send("POST", "/v1/api/keys", json={"name": "x"})).status_code == 401
    body = {"password": PASSWORD, "code": person.codes[0]}
    assert (await person.send("DELETE", TOTP, json=body)).status_code == 204


async def test_guessing_codes_is_slowed_even_with_the_right_password(
    desk: Desk, person: Person
) -> None:
    policies = desk.guards.limits.policies
    before, policies["login-code"] = policies["login-code"], Policy("login-code", 3, window=3600)
    try:
        answers = [await person.send("GET", "/v1/api/account", "000000") for _ in range(6)]
        assert {answer.status_code for answer in answers} == {401}  # not shut out where it is known
        async with desk.guards.accounts.database.connection() as connection:
            await connection.execute("delete from audit where act in ('registered', 'logged_in')")
        late = await person.send("GET", "/v1/api/account", "000000")
        assert (late.status_code, late.json()["error"]["code"]) == (429, 2002)
    finally:
        policies["login-code"] = before


async def test_a_password_reset_does_not_end_the_second_factor(desk: Desk, person: Person) -> None:
    async with desk.guards.accounts.database.connection() as connection:
        cursor = await connection.execute(
            "select id from accounts where email = %s", [person.email]
        )
        row = await cursor.fetchone()
        assert row
        link = await make_link(connection, row[0], "http://gateway")
    body = {"token": link.partition("token=")[2], "new": "staple a longer battery"}
    done = await person.http.post("/v1/api/account/reset/confirm", json=body)
    assert done.status_code == 204, done.text
    answer = await person.http.get(
        "/v1/api/account", auth=httpx2.BasicAuth(person.email, "staple a longer battery")
    )
    assert answer.json()["error"]["details"] == {"reason": "totp"}


async def test_the_account_page_sets_up_a_second_factor_by_qr_code_and_switches_it_off(
    desk: Desk,
) -> None:
    email = f"{secrets.token_hex(8)}@example.com"
    async with desk.http() as http:
        await http.post("/v1/api/accounts", json={"email": email, "password": PASSWORD})
        person = Person(http, email)
        cookie = (await person.log_in()).headers["set-cookie"].partition(";")[0]

        async def post(**fields: str) -> httpx2.Response:
            return await http.post(
                "/dashboard/account/totp", data=fields, headers={"Cookie": cookie, **HERE}
            )

        wrong = await post(act="start", password="not the password")
        assert (wrong.status_code, 'id="totp-secret"' in wrong.text) == (400, False)
        started = await post(act="start", password=PASSWORD)
        assert "<svg" in started.text
        person.secret = re.findall(r'id="totp-secret">(\w+)<', started.text)[0]
        assert "Is wrong" in (await post(act="confirm", code="000000")).text
        on = await post(act="confirm", code=person.code(-1))
        codes = re.findall(r'id="recovery-codes"[^>]*>([^<]+)<', on.text)[0].split()
        assert len(codes) == 10
        refused = await post(act="stop", password=PASSWORD, code="000000")
        assert (refused.status_code, "Switch off" in refused.text) == (400, True)
        off = await post(act="stop", password=PASSWORD, code=codes[0])
        assert "The second factor is off." in off.text
        assert (await person.log_in()).headers["location"] == "/dashboard"


async def test_an_operators_command_switches_the_second_factor_off(
    person: Person, servers: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", servers.postgres.url("gateway"))
    assert await second_factor.switch_off(person.email.upper()) == 0
    assert (await person.send("GET", "/v1/api/account")).json()["data"]["totp"] is False
    assert await second_factor.switch_off(person.email) == 1
