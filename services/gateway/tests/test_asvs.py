"""Lines of ASVS 5.0, level 1, that no other test covers, and the table of all of them."""

import base64
import re
import secrets
from importlib.resources import files
from pathlib import Path

import httpx2
import pytest
from zxcvbn.frequency_lists import FREQUENCY_LISTS

from gateway.account_fields import NewAccount
from gateway.passwords import MIN_SCORE, _score

from .conftest import Desk

ROOT = Path(__file__).parents[3]
PASSWORD = "correct horse battery"
HERE = {"Sec-Fetch-Site": "same-origin"}
# One in this many of the 3,000 most common passwords of sufficient length is tried.
STEP = 20


async def register(http: httpx2.AsyncClient, password: str) -> tuple[str, int]:
    email = f"{secrets.token_hex(6)}@example.com"
    answer = await http.post("/v1/api/accounts", json={"email": email, "password": password})
    return email, answer.status_code


async def log_in(http: httpx2.AsyncClient, email: str) -> str:
    answer = await http.post("/login", data={"email": email, "password": PASSWORD})
    http.cookies.clear()
    return answer.headers["set-cookie"].partition(";")[0]


def test_every_line_of_the_asvs_table_names_existing_tests() -> None:
    table = (ROOT / "docs" / "reference" / "asvs.md").read_text()
    lines = re.findall(r"^\| (\d\.\d\.\d+) \|.*\| (`test_.*`) \|$", table, re.MULTILINE)
    assert len(lines) == 19 + 6
    sources = [*ROOT.glob("services/gateway/tests/*.py"), *ROOT.glob("tests/integration/*.py")]
    code = "\n".join(path.read_text() for path in sources)
    for line, named in lines:
        for test in re.findall(r"`(test_\w+)`", named):
            assert re.search(rf"^(async )?def {test}\(", code, re.MULTILINE), (line, test)


async def test_a_password_has_eight_to_256_characters_of_any_kind(desk: Desk) -> None:
    async with desk.http() as http:
        for password, status in (
            ("xq7vbkm", 400),
            ("xq7vbkmz", 201),
            ("xqzvbkmw jhplt", 201),
            ("824173905618", 201),
            ("пять лягушек", 201),
            ("\U0001f438 \U0001f33f \U0001f98b \U0001f319 x", 201),
            (secrets.token_hex(128), 201),
            (secrets.token_hex(128) + "x", 400),
        ):
            assert (await register(http, password))[1] == status, password


async def test_a_password_is_checked_exactly_as_it_was_sent(desk: Desk) -> None:
    password = " Correct horse battery " + "x" * 200
    async with desk.http() as http:
        email, status = await register(http, password)
        assert status == 201
        for tried, expected in (
            (password, 200),
            (password.strip(), 401),
            (password.lower(), 401),
            (password[:-1], 401),
        ):
            answer = await http.get("/v1/api/account", auth=(email, tried))
            assert answer.status_code == expected


def test_the_most_common_passwords_are_refused() -> None:
    common = [password for password in FREQUENCY_LISTS["passwords"] if len(password) >= 8][:3000]
    assert len(common) == 3000
    accepted = [
        password for password in common[::STEP] if _score(password, "somebody@example.com") >= 2
    ]
    assert MIN_SCORE == 2
    assert accepted == []


@pytest.mark.parametrize(
    "password", ["frieda.teich@seerose.example", "frieda.teich1", "seerose.example"]
)
def test_the_accounts_own_address_is_refused_as_a_password(password: str) -> None:
    assert _score(password, "frieda.teich@seerose.example") < MIN_SCORE


async def test_password_fields_are_masked_and_open_to_password_managers(desk: Desk) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await register(http, PASSWORD)
        cookie = {"Cookie": await log_in(http, email)}
        fields = []
        for page in ("/register", "/login", "/reset?token=x", "/dashboard/account"):
            text = (await http.get(page, headers=cookie)).text
            fields += re.findall(r'<input [^>]*name="(?:password|new|current)"[^>]*>', text)
    assert len(fields) == 7
    for field in fields:
        assert 'type="password"' in field
        assert re.search(r'autocomplete="(new|current)-password"', field)
        assert not re.search(r"readonly|on[a-z]+=", field)
    scripts = files("gateway.pages").joinpath("static").iterdir()
    assert not any("paste" in script.read_text() for script in scripts if script.is_file())


def test_a_new_database_has_no_account() -> None:
    for migration in files("gateway").joinpath("migrations").iterdir():
        assert "insert into" not in migration.read_text()


def test_registering_asks_for_an_address_and_a_password_alone() -> None:
    assert set(NewAccount.model_fields) == {"email", "password"}


async def test_an_api_key_opens_no_page(desk: Desk) -> None:
    _, key = await desk.key()
    async with desk.http() as http:
        for headers in (
            {"Authorization": f"Bearer {key}"},
            {"Cookie": f"__Host-session={key}"},
        ):
            answer = await http.get("/dashboard", headers=headers)
            assert (answer.status_code, answer.headers["location"]) == (303, "/login")


async def test_each_login_gets_a_token_of_256_random_bits(desk: Desk) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await register(http, PASSWORD)
        tokens = [(await log_in(http, email)).partition("=")[2] for _ in range(4)]
    assert len(set(tokens)) == 4
    assert {len(base64.urlsafe_b64decode(token + "=")) for token in tokens} == {32}


async def test_the_sessions_of_a_deleted_account_end(desk: Desk) -> None:
    async with desk.http(headers=HERE) as http:
        email, _ = await register(http, PASSWORD)
        own, other = [{"Cookie": await log_in(http, email)} for _ in range(2)]
        deleted = await http.request(
            "DELETE", "/v1/api/account", json={"password": PASSWORD}, headers=own
        )
        assert deleted.status_code == 204
        for cookie in (own, other):
            assert (await http.get("/v1/api/account", headers=cookie)).status_code == 401
