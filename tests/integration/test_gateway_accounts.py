"""Accounts, sessions and keys, through the edge and two gateways."""

import re
import secrets
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import psycopg
import pytest

from gateway.keys import make_key
from integration.caller import PASSWORD, Account, error_of
from integration.load import wait_until
from local.stack import Stack


def from_address(stack: Stack, address: str, **options: object) -> httpx2.Client:
    """A caller at another address than the other tests', whose mistakes are counted for itself."""
    transport = httpx2.HTTPTransport(local_address=address)
    return httpx2.Client(base_url=stack.url, transport=transport, timeout=60, **options)  # type: ignore[arg-type]


@pytest.fixture
def browser(stack: Stack) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=stack.url, headers={"Sec-Fetch-Site": "same-origin"}) as made:
        yield made


@pytest.fixture
def hurried(generous_stack: Stack) -> Iterator[Account]:
    """An account where nothing is limited."""
    made = Account(generous_stack.url)
    yield made
    made.http.close()


def log_in(browser: httpx2.Client, email: str, password: str = PASSWORD) -> str:
    """The session's cookie, which httpx, other than a browser, would not send over http."""
    answer = browser.post("/login", data={"email": email, "password": password})
    assert (answer.status_code, answer.headers.get("location")) == (303, "/dashboard"), answer.text
    cookie = answer.headers["set-cookie"]
    assert cookie.startswith("__Host-session=")
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    return cookie.partition(";")[0]


def acts(stack: Stack, account: str) -> list[str]:
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        rows = database.execute(
            "select act from audit where account_id = %s order by id", [account]
        )
        return [act for (act,) in rows]


def test_from_registering_to_a_revoked_key_on_the_pages(
    stack: Stack, browser: httpx2.Client
) -> None:
    email = f"{secrets.token_hex(6)}@example.com"
    answer = browser.post("/register", data={"email": email, "password": PASSWORD})
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?registered=1")
    assert answer.headers["ratelimit"].startswith('"register";r=')
    cookie = {"Cookie": log_in(browser, email)}
    form = {"name": "<b>laptop", "scopes": ["generate"], "expires": "30", "number": "1"}
    page = browser.post("/dashboard/keys", data=form, headers=cookie).text
    [key] = set(re.findall(r"lmg_live_[0-9A-Za-z]{36}", page))
    assert "<b>laptop" not in page  # shown, not run
    again = browser.post("/dashboard/keys", data=form, headers=cookie).text
    assert again.count('<li class="card">') == 1  # a reload makes no second key
    assert key not in browser.get("/dashboard", headers=cookie).text

    call = {"Authorization": f"Bearer {key}"}
    body = {"modelUrl": "lilypad/tiny-text-classification"}
    assert browser.post("/v1/api/generate", json=body, headers=call).status_code == 200
    assert browser.get("/v1/api/alerts", headers=call).status_code == 403
    id = re.search(r"/dashboard/keys/(key_\w+)/revoke", page)
    assert id
    browser.post(f"/dashboard/keys/{id[1]}/rename", data={"name": "desk"}, headers=cookie)
    assert "desk" in browser.get("/dashboard", headers=cookie).text
    browser.post(f"/dashboard/keys/{id[1]}/revoke", data={"sure": "yes"}, headers=cookie)
    wait_until(lambda: browser.post("/v1/api/generate", json=body, headers=call).status_code == 401)

    browser.post("/logout", data={"sure": "yes"}, headers=cookie)
    over = browser.get("/dashboard", headers=cookie)
    assert (over.status_code, over.headers["location"]) == (303, "/login")
    assert error_of(browser.get("/v1/api/keys", headers=cookie))["code"] == 2001


def test_each_login_has_a_token_of_its_own_and_ends_the_one_before(
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
def test_another_site_can_make_a_browser_do_nothing(
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


def test_an_older_browser_is_known_by_its_origin(stack: Stack, account: Account) -> None:
    with httpx2.Client(base_url=stack.url, headers={"Origin": stack.url}) as older:
        assert log_in(older, account.email)


def test_a_socket_token_is_for_sockets_and_its_making_is_noted(
    stack: Stack, account: Account, browser: httpx2.Client
) -> None:
    cookie = {"Cookie": log_in(browser, account.email)}
    made = browser.post("/v1/api/socket-tokens", headers=cookie).json()["data"]
    assert made["token"].startswith("lmg_socket_")
    answer = browser.get("/v1/api/alerts", headers={"Authorization": f"Bearer {made['token']}"})
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
        (404, "there is no such key")
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


def test_a_key_that_reaches_too_far_leaves_a_trace(stack: Stack, account: Account) -> None:
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


def test_an_expired_key_and_one_that_was_never_made_are_refused_and_noted(
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


def test_a_revoked_key_is_refused_by_every_gateway_within_a_second(
    stack: Stack, account: Account
) -> None:
    """A gateway that had not heard of it would trust the key for five seconds."""
    made = account.make_key("revoked")
    headers = {"Authorization": f"Bearer {made['key']}"}
    gateways = [f"http://{host}:{port}" for host, port in stack.addresses["gateway"]]

    def statuses() -> set[int]:
        return {httpx2.get(f"{g}/v1/api/alerts", headers=headers).status_code for g in gateways}

    assert statuses() == {200}
    account.http.delete(f"/v1/api/keys/{made['id']}", auth=(account.email, PASSWORD))
    revoked = time.monotonic()
    wait_until(lambda: statuses() == {401})
    assert time.monotonic() - revoked < 4  # below what the cache alone would take


def test_an_account_has_a_hundred_keys_and_not_one_more_however_many_are_made_at_once(
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


def test_an_address_that_http_basic_cannot_send_is_not_registered(account: Account) -> None:
    body = {"email": "a:b@example.com", "password": PASSWORD}
    answer = account.http.post("/v1/api/accounts", json=body)
    assert error_of(answer)["details"]["fields"][0]["path"] == "email"


def test_the_last_use_of_a_key_is_shown_soon(account: Account) -> None:
    account.generate("lilypad/tiny-text-classification")

    def used() -> bool:
        answer = account.http.get("/v1/api/keys", auth=(account.email, PASSWORD)).json()
        time.sleep(0.5)
        return answer["data"]["keys"][0]["lastUsedAt"] is not None

    wait_until(used)


def test_an_address_that_is_taken_is_answered_like_a_new_one(account: Account) -> None:
    def register(email: str, password: str) -> dict[str, object]:
        answer = account.http.post("/v1/api/accounts", json={"email": email, "password": password})
        assert answer.status_code == 201
        found: dict[str, object] = answer.json()["data"]
        return found

    wrong = register(account.email, "another password")
    assert wrong == register(account.email, "another password")
    assert wrong["email"] == account.email
    assert re.fullmatch(r"acc_[0-9a-f]{24}", str(wrong["id"]))
    assert wrong["id"] != account.id
    assert register(account.email.upper(), PASSWORD)["id"] == account.id


def test_no_time_tells_whether_an_address_has_an_account(
    hurried: Account,
) -> None:
    """Known and unknown cost the same hash; without it one of them would take a tenth."""
    account = hurried
    times: dict[str, list[float]] = {"known": [], "unknown": [], "taken": [], "new": []}
    for _ in range(15):
        for who, email in (("known", account.email), ("unknown", f"{secrets.token_hex(6)}@x.org")):
            start = time.perf_counter()
            answer = account.http.get("/v1/api/keys", auth=(email, "wrong password"))
            times[who].append(time.perf_counter() - start)
            assert answer.status_code == 401
            assert error_of(answer)["message"] == "the e-mail address or the password is wrong"
        for who, email in (("taken", account.email), ("new", f"{secrets.token_hex(6)}@x.org")):
            body = {"email": email, "password": "wrong password"}
            start = time.perf_counter()
            assert account.http.post("/v1/api/accounts", json=body).status_code == 201
            times[who].append(time.perf_counter() - start)
    least = {who: statistics.median(taken) for who, taken in times.items()}
    assert 0.5 < least["known"] / least["unknown"] < 2, least
    assert 0.5 < least["taken"] / least["new"] < 2, least


def test_guessing_is_slowed_whatever_address_it_claims_and_the_owner_still_gets_in(
    stack: Stack, account: Account
) -> None:
    with from_address(stack, "127.0.0.66") as guesser:
        statuses = Counter(
            guesser.get(
                "/v1/api/keys",
                auth=(account.email, f"guess {number}"),
                headers={"X-Forwarded-For": f"10.0.{number}.1", "X-Real-IP": "10.0.0.1"},
            ).status_code
            for number in range(40)
        )
        assert statuses[401] == 10, statuses
        assert statuses[429] == 30, statuses
        refused = guesser.get("/v1/api/keys", auth=(account.email, PASSWORD))
        assert (refused.status_code, error_of(refused)["code"]) == (429, 2002)
        assert int(refused.headers["retry-after"]) >= 1
        # Nor can it go through many accounts.
        others = [
            guesser.get("/v1/api/keys", auth=(f"{n}@example.com", "guess")).status_code
            for n in range(40)
        ]
        assert others.count(401) == 20
    assert account.http.get("/v1/api/keys", auth=(account.email, PASSWORD)).status_code == 200
    with psycopg.connect(stack.postgres.url("gateway")) as database:
        rows = database.execute(
            "select distinct address from audit where act = 'login_failed' and account_id = %s",
            [account.id],
        ).fetchall()
    assert rows == [("127.0.0.66",)]
    assert "login_throttled" in acts(stack, account.id)


def test_who_has_been_here_before_is_not_locked_out_by_guesses_from_everywhere(
    stack: Stack, account: Account
) -> None:
    def guess(number: int) -> int:
        with from_address(stack, f"127.0.1.{number}") as guesser:
            return [
                guesser.get("/v1/api/keys", auth=(account.email, "guess")).status_code
                for _ in range(10)
            ].count(401)

    def log_in_from(address: str) -> int:
        with from_address(stack, address) as http:
            return http.get("/v1/api/keys", auth=(account.email, PASSWORD)).status_code

    # HTTP Basic, and nothing else, from an office.
    assert [log_in_from("127.0.0.77") for _ in range(5)] == [200] * 5
    assert acts(stack, account.id).count("logged_in") == 2  # one a day from here, one from there
    assert sum(map(guess, range(1, 12))) == 100
    assert log_in_from("127.0.0.77") == 200
    assert log_in_from("127.0.0.1") == 200  # where it was registered
    assert log_in_from("127.0.0.78") == 429


def test_right_passwords_are_let_in_however_many_come_at_once(
    stack: Stack, account: Account
) -> None:
    with from_address(stack, "127.0.0.68") as http, ThreadPoolExecutor(25) as pool:

        def log_in(_: int) -> int:
            return http.get("/v1/api/keys", auth=(account.email, PASSWORD)).status_code

        assert set(pool.map(log_in, range(40))) == {200}
        wrong = [http.get("/v1/api/keys", auth=(account.email, "no")) for _ in range(9)]
        assert {answer.status_code for answer in wrong} == {401}
        assert set(pool.map(log_in, range(20))) == {200}


def test_of_wrong_passwords_at_once_as_many_are_told_so_as_one_after_the_other(
    stack: Stack, account: Account
) -> None:
    with from_address(stack, "127.0.0.69") as http, ThreadPoolExecutor(25) as pool:

        def guess(number: int) -> int:
            auth = (account.email, f"guess {number}")
            return http.get("/v1/api/keys", auth=auth).status_code

        statuses = Counter(pool.map(guess, range(25)))
    assert statuses == {401: 10, 429: 15}
    # Of the others it was not even looked whether they are right, but for one on the other replica.
    assert acts(stack, account.id).count("login_failed") <= 11


def test_fifty_logins_at_once_cost_little_memory(generous_stack: Stack, hurried: Account) -> None:
    gateways = [psutil.Process(generous_stack.processes[f"gateway-{n}"].pid) for n in (1, 2)]
    before = sum(gateway.memory_info().rss for gateway in gateways)
    most = before

    def attempt(_: int) -> int:
        with httpx2.Client(base_url=generous_stack.url, timeout=60) as http:
            return http.get("/v1/api/keys", auth=(hurried.email, PASSWORD)).status_code

    with ThreadPoolExecutor(50) as pool:
        attempts = [pool.submit(attempt, number) for number in range(50)]
        while not all(done.done() for done in attempts):
            most = max(most, sum(gateway.memory_info().rss for gateway in gateways))
            time.sleep(0.01)
    assert {done.result() for done in attempts} <= {200, 429, 503}
    assert most - before < 300 * 2**20


def test_a_key_is_in_no_log_and_no_table(stack: Stack, account: Account) -> None:
    made = account.make_key("secret")["key"]
    account.post(
        "/v1/api/generate", {"modelUrl": made}, headers={"Authorization": f"Bearer {made}"}
    )
    account.http.get(f"/v1/api/{made}", params={"token": made})
    for log in stack.logs.iterdir():
        assert made not in log.read_text(errors="replace"), log.name
        assert PASSWORD not in log.read_text(errors="replace"), log.name
    with psycopg.connect(stack.postgres.url()) as database:
        tables = database.execute(
            "select schemaname, tablename from pg_tables where schemaname = 'gateway'"
        ).fetchall()
        for schema, table in tables:
            for (row,) in database.execute(f'select t::text from "{schema}"."{table}" t'):
                assert made not in row
                assert PASSWORD not in row
