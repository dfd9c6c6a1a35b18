"""Registration and login during password guessing, through the edge and two gateways."""

import re
import secrets
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx2
import psutil
import psycopg
import pytest

from integration.caller import PASSWORD, Account, acts, error_of, from_address
from local.stack import Stack


@pytest.fixture
def unthrottled(generous_stack: Stack) -> Iterator[Account]:
    """An account whose limits are not reached."""
    account = Account(generous_stack.url)
    yield account
    account.http.close()


def test_an_address_that_http_basic_cannot_send_is_not_registered(account: Account) -> None:
    body = {"email": "a:b@example.com", "password": PASSWORD}
    answer = account.http.post("/v1/api/accounts", json=body)
    assert error_of(answer)["details"]["fields"][0]["path"] == "email"


def test_a_registered_address_is_answered_like_a_new_one(account: Account) -> None:
    def register(email: str, password: str) -> dict[str, object]:
        answer = account.http.post("/v1/api/accounts", json={"email": email, "password": password})
        assert answer.status_code == 201
        data: dict[str, object] = answer.json()["data"]
        return data

    wrong = register(account.email, "another password")
    assert wrong == register(account.email, "another password")
    assert wrong["email"] == account.email
    assert re.fullmatch(r"acc_[0-9a-f]{24}", str(wrong["id"]))
    assert wrong["id"] != account.id
    assert register(account.email.upper(), PASSWORD)["id"] == account.id


def test_response_times_do_not_reveal_whether_an_address_has_an_account(
    generous_stack: Stack, unthrottled: Account
) -> None:
    """Known and unknown addresses cost one password hash each, nine tenths of the CPU time."""
    account = unthrottled
    gateways = [psutil.Process(generous_stack.processes[f"gateway-{n}"].pid) for n in (1, 2)]

    def cost() -> float:
        """Return the gateways' processor time, which a busy machine does not lengthen."""
        return sum(sum(gateway.cpu_times()[:2]) for gateway in gateways)

    def unknown() -> str:
        return f"{secrets.token_hex(6)}@x.org"

    costs = {}
    for who, address in (("known", lambda: account.email), ("unknown", unknown)):
        before = cost()
        for _ in range(8):
            answer = account.http.get("/v1/api/keys", auth=(address(), "wrong password"))
            assert answer.status_code == 401
            assert error_of(answer)["message"] == "the e-mail address or the password is wrong"
        costs[who] = cost() - before
    for who, address in (("taken", lambda: account.email), ("new", unknown)):
        before = cost()
        for _ in range(8):
            body = {"email": address(), "password": "wrong password"}
            assert account.http.post("/v1/api/accounts", json=body).status_code == 201
        costs[who] = cost() - before
    assert 0.5 < costs["known"] / costs["unknown"] < 2, costs
    assert 0.5 < costs["taken"] / costs["new"] < 2, costs


def test_guessing_is_slowed_whatever_address_is_claimed_and_the_owner_can_log_in(
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
        # The guesser cannot try many accounts either.
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


def test_guesses_from_many_addresses_do_not_lock_a_known_address_out(
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

    # HTTP Basic only, from an office's address.
    assert [log_in_from("127.0.0.77") for _ in range(5)] == [200] * 5
    assert acts(stack, account.id).count("logged_in") == 2  # one a day from here, one from there
    assert sum(map(guess, range(1, 12))) == 100
    assert log_in_from("127.0.0.77") == 200
    assert log_in_from("127.0.0.1") == 200  # where it was registered
    assert log_in_from("127.0.0.78") == 429


def test_correct_passwords_are_accepted_however_many_come_at_once(
    stack: Stack, account: Account
) -> None:
    with from_address(stack, "127.0.0.68") as http, ThreadPoolExecutor(25) as pool:

        def log_in(_: int) -> int:
            return http.get("/v1/api/keys", auth=(account.email, PASSWORD)).status_code

        assert set(pool.map(log_in, range(40))) == {200}
        wrong = [http.get("/v1/api/keys", auth=(account.email, "no")) for _ in range(9)]
        assert {answer.status_code for answer in wrong} == {401}
        assert set(pool.map(log_in, range(20))) == {200}


def test_concurrent_wrong_passwords_are_rejected_as_often_as_sequential_ones(
    stack: Stack, account: Account
) -> None:
    with from_address(stack, "127.0.0.69") as http, ThreadPoolExecutor(25) as pool:

        def guess(number: int) -> int:
            auth = (account.email, f"guess {number}")
            return http.get("/v1/api/keys", auth=auth).status_code

        statuses = Counter(pool.map(guess, range(25)))
    assert statuses == {401: 10, 429: 15}
    # The others were refused unchecked, except for one on the other replica.
    assert acts(stack, account.id).count("login_failed") <= 11


def test_fifty_logins_at_once_cost_little_memory(
    generous_stack: Stack, unthrottled: Account
) -> None:
    gateways = [psutil.Process(generous_stack.processes[f"gateway-{n}"].pid) for n in (1, 2)]
    before = sum(gateway.memory_info().rss for gateway in gateways)
    most = before

    def attempt(_: int) -> int:
        with httpx2.Client(base_url=generous_stack.url, timeout=60) as http:
            return http.get("/v1/api/keys", auth=(unthrottled.email, PASSWORD)).status_code

    with ThreadPoolExecutor(50) as pool:
        attempts = [pool.submit(attempt, number) for number in range(50)]
        while not all(done.done() for done in attempts):
            most = max(most, sum(gateway.memory_info().rss for gateway in gateways))
            time.sleep(0.01)
    assert {done.result() for done in attempts} <= {200, 429, 503}
    assert most - before < 300 * 2**20
