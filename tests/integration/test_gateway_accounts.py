"""Accounts, sessions and keys, through the edge and two gateways."""

import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psycopg
import pytest

from gateway.keys import make_key
from integration.caller import PASSWORD, Account, acts, error_of, from_address
from integration.load import wait_until
from local.stack import Stack


@pytest.fixture
def browser(stack: Stack) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=stack.url, headers={"Sec-Fetch-Site": "same-origin"}) as made:
        yield made


def log_in(browser: httpx2.Client, email: str, password: str = PASSWORD) -> str:
    """Return the session's cookie, which httpx, unlike a browser, does not send over http."""
    answer = browser.post("/login", data={"email": email, "password": password})
    assert (answer.status_code, answer.headers.get("location")) == (303, "/dashboard"), answer.text
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    return cookie.partition(";")[0]


def test_a_person_registers_then_creates_and_revokes_a_key_on_the_pages(
    stack: Stack, browser: httpx2.Client
) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    answer = browser.post("/register", data={"email": email, "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/dashboard")
    assert answer.headers["ratelimit"].startswith('"register";r=')
    cookie = {"Cookie": log_in(browser, email)}
    form = {"name": "<b>laptop", "scopes": ["generate"], "expires": "30", "number": "1"}
    page = browser.post("/dashboard/keys", data=form, headers=cookie).text
    [key] = set(re.findall(r"lmg_live_[0-9A-Za-z]{36}", page))
    assert "<b>laptop" not in page  # shown, not run
    again = browser.post("/dashboard/keys", data=form, headers=cookie).text
    assert again.count('<li class="card">') == 1  # a reload makes no second key
    assert key not in browser.get("/dashboard/keys", headers=cookie).text

    call = {"Authorization": f"Bearer {key}"}
    body = {"modelUrl": "lilypad/tiny-text-classification"}
    assert browser.post("/v1/api/generate", json=body, headers=call).status_code == 200
    assert browser.get("/v1/api/alerts", headers=call).status_code == 403
    id = re.search(r"/dashboard/keys/(key_\w+)/revoke", page)
    assert id
    browser.post(f"/dashboard/keys/{id[1]}/rename", data={"name": "desk"}, headers=cookie)
    assert "desk" in browser.get("/dashboard/keys", headers=cookie).text
    browser.post(f"/dashboard/keys/{id[1]}/revoke", data={"sure": "yes"}, headers=cookie)
    wait_until(lambda: browser.post("/v1/api/generate", json=body, headers=call).status_code == 401)

    browser.post("/logout", data={"sure": "yes"}, headers=cookie)
    over = browser.get("/dashboard", headers=cookie)
    assert (over.status_code, over.headers["location"]) == (303, "/login")
    assert error_of(browser.get("/v1/api/keys", headers=cookie))["code"] == 2001


def test_each_login_gets_a_new_token_and_ends_the_previous_session(
    account: Account, browser: httpx2.Client
) -> None:
    first = log_in(browser, account.email)
    browser.headers["Cookie"] = first
    second = log_in(browser, account.email)
    assert first != second
    for cookie, status in ((first, 401), (second, 200)):
        answer = browser.get("/v1/api/keys", headers={"Cookie": cookie})
        assert answer.status_code == status


def test_a_session_ends_when_it_is_idle_and_after_a_day(
    stack: Stack, account: Account, browser: httpx2.Client
) -> None:
    for column, age in (("seen_at", "121 minutes"), ("created_at", "25 hours")):
        cookie = {"Cookie": log_in(browser, account.email)}
        assert browser.get("/v1/api/keys", headers=cookie).status_code == 200
        with psycopg.connect(stack.postgres.url("gateway")) as database:
            database.execute(
                f"update sessions set {column} = now() - interval '{age}' where account_id = %s",
                [account.id],
            )
        assert browser.get("/v1/api/keys", headers=cookie).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {},
    ],
    ids=str,
)
def test_another_site_cannot_make_a_browser_send_requests(
    stack: Stack, account: Account, browser: httpx2.Client, headers: dict[str, str]
) -> None:
    cookie = {"Cookie": log_in(browser, account.email)}
    with httpx2.Client(base_url=stack.url, headers={**cookie, **headers}) as elsewhere:
        for path in ("/dashboard/keys", "/dashboard/beta", "/logout"):
            answer = elsewhere.post(path, data={"name": "x", "scopes": "generate", "number": "9"})
            assert answer.status_code == 403, path
        assert elsewhere.post("/v1/api/keys", json={"name": "x"}).status_code == 403
    assert len(browser.get("/v1/api/keys", headers=cookie).json()["data"]["keys"]) == 1
    assert "cross_site_refused" in acts(stack, account.id)


def test_an_older_browser_is_checked_by_its_origin(stack: Stack, account: Account) -> None:
    with httpx2.Client(base_url=stack.url, headers={"Origin": stack.url}) as older:
        assert log_in(older, account.email)


def test_a_socket_token_opens_only_sockets_and_its_creation_is_audited(
    stack: Stack, account: Account, browser: httpx2.Client
) -> None:
    cookie = {"Cookie": log_in(browser, account.email)}
    token = browser.post("/v1/api/socket-tokens", headers=cookie).json()["data"]
    assert token["token"].startswith("lmg_socket_")
    answer = browser.get("/v1/api/alerts", headers={"Authorization": f"Bearer {token['token']}"})
    assert error_of(answer)["code"] == 2001
    assert acts(stack, account.id)[-1] == "socket_token_made"


def test_a_key_is_listed_changed_and_revoked_by_its_owner_only(
    stack: Stack, account: Account, new_account: Callable[[], Account]
) -> None:
    key = account.make_key("one", scopes=["monitor:read"], expiresAt="2099-01-01T00:00:00Z")
    path, owner = f"/v1/api/keys/{key['id']}", (account.email, PASSWORD)
    stranger = new_account()
    answers = [
        stranger.http.request(method, address, json=body, auth=(stranger.email, PASSWORD))
        for address in (path, "/v1/api/keys/key_000000000000000000000000")
        for method, body in (("GET", None), ("PATCH", {"name": "mine"}), ("DELETE", None))
    ]
    assert {(a.status_code, error_of(a)["message"]) for a in answers} == {
        (404, "no such API key; GET /v1/api/keys lists them")
    }
    stranger.http.close()
    assert acts(stack, stranger.id).count("key_not_found") == 6
    changed = account.http.patch(
        path, json={"name": "two", "scopes": ["generate"], "expiresAt": None}, auth=owner
    ).json()["data"]
    assert (changed["name"], changed["scopes"], changed["expiresAt"]) == ("two", ["generate"], None)
    assert "key" not in account.http.get(path, auth=owner).json()["data"]
    assert account.http.delete(path, auth=owner).status_code == 204
    assert account.http.delete(path, auth=owner).status_code == 404
    assert acts(stack, account.id) == [
        "registered", "logged_in", "key_created", "key_created", "key_changed", "key_revoked",
        "key_not_found",
    ]  # fmt: skip


def test_a_key_used_without_the_required_scope_leaves_an_audit_entry(
    stack: Stack, account: Account
) -> None:
    narrow = account.make_key("narrow", scopes=["benchmark"])
    headers = {"Authorization": f"Bearer {narrow['key']}"}
    paths = ("/v1/api/alerts", "/v1/api/benchmark/run_0f", f"/v1/api/benchmark/{narrow['key']}")
    answers = [account.http.get(path, headers=headers).status_code for path in paths]
    assert answers == [403, 404, 404]
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        rows = database.execute(
            "select act, details->>'key', details->>'path', details->>'ids' from audit"
            " where account_id = %s order by id",
            [account.id],
        ).fetchall()
    assert rows[-3:] == [
        ("not_allowed", narrow["id"], "/alerts", "[]"),
        ("not_found", narrow["id"], "/benchmark/{id}", '["run_0f"]'),
        ("not_found", narrow["id"], "/benchmark/{id}", '["(no id)"]'),
    ]


def test_an_expired_and_an_unknown_key_are_refused_and_audited(
    stack: Stack, account: Account
) -> None:
    key = account.make_key("short", expiresAt="2099-01-01T00:00:00Z")
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        database.execute("update keys set expires_at = now() where id = %s", [key["id"]])
    answer = account.post(
        "/v1/api/generate", {"modelUrl": "a/b"}, headers={"Authorization": f"Bearer {key['key']}"}
    )
    assert (answer.status_code, error_of(answer)["code"]) == (401, 2001)
    with from_address(stack, "127.0.0.70") as guesser:
        for _ in range(3):
            headers = {"Authorization": f"Bearer {make_key()}"}
            assert guesser.get("/v1/api/alerts", headers=headers).status_code == 401
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        rows = database.execute(
            "select distinct account_id, address, details->>'key' from audit"
            " where act = 'key_refused' and (account_id = %s or address = '127.0.0.70')"
            " order by address",
            [account.id],
        ).fetchall()
    assert rows == [(account.id, "127.0.0.1", key["id"]), (None, "127.0.0.70", "")]


def test_a_revoked_key_is_refused_by_every_gateway_at_once(stack: Stack, account: Account) -> None:
    """A gateway that missed the event would trust the key for five seconds."""
    gateways = [f"http://{host}:{port}" for host, port in stack.addresses["gateway"]]

    def refused_before_the_cache_expires() -> bool:
        made = account.make_key("revoked")
        headers = {"Authorization": f"Bearer {made['key']}"}

        def statuses() -> set[int]:
            return {httpx2.get(f"{g}/v1/api/alerts", headers=headers).status_code for g in gateways}

        assert statuses() == {200}
        account.http.delete(f"/v1/api/keys/{made['id']}", auth=(account.email, PASSWORD))
        revoked = time.monotonic()
        wait_until(lambda: statuses() == {401})
        return time.monotonic() - revoked < 4

    # A machine that was busy for a moment delays the event as well.
    wait_until(refused_before_the_cache_expires)


def test_concurrent_requests_create_no_more_than_a_hundred_keys(
    stack: Stack, account: Account, browser: httpx2.Client
) -> None:
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        database.execute(
            "insert into keys (id, account_id, name, prefix, hash, scopes)"
            " select %(of)s || n, %(of)s, '', '', sha256((%(of)s || n)::bytea), '{generate}'"
            " from generate_series(1, 90) n",
            {"of": account.id},
        )
    browser.headers["Cookie"] = log_in(browser, account.email)

    def make(number: int) -> int:
        return browser.post("/v1/api/keys", json={"name": f"{number}"}).status_code

    with ThreadPoolExecutor(18) as pool:
        statuses = Counter(pool.map(make, range(18)))
    assert statuses == {201: 9, 409: 9}
    assert len(browser.get("/v1/api/keys").json()["data"]["keys"]) == 100


def test_the_last_use_of_a_key_is_shown_soon(account: Account) -> None:
    account.generate("lilypad/tiny-text-classification")

    def used() -> bool:
        answer = account.http.get("/v1/api/keys", auth=(account.email, PASSWORD)).json()
        time.sleep(0.5)
        return answer["data"]["keys"][0]["lastUsedAt"] is not None

    wait_until(used)


def test_a_key_is_in_no_log_and_no_table(stack: Stack, account: Account) -> None:
    key = account.make_key("secret")["key"]
    account.post("/v1/api/generate", {"modelUrl": key}, headers={"Authorization": f"Bearer {key}"})
    account.http.get(f"/v1/api/{key}", params={"token": key})
    for log in stack.logs.iterdir():
        assert key not in log.read_text(errors="replace"), log.name
        assert PASSWORD not in log.read_text(errors="replace"), log.name
    with psycopg.connect(stack.postgres.url()) as database:
        tables = database.execute(
            "select schemaname, tablename from pg_tables where schemaname = 'gateway'"
        ).fetchall()
        for schema, table in tables:
            for (row,) in database.execute(f'select t::text from "{schema}"."{table}" t'):
                assert key not in row
                assert PASSWORD not in row
