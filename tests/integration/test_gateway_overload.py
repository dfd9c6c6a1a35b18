"""Two gateways of small capacity: excess requests are refused, and others are served."""

import os
import re
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import httpx2
import pytest

from hub.testing import RunningHub
from integration.caller import Account, error_of, from_address
from integration.load import wait_until
from local.services import Service
from local.stack import Stack

# Requests at once on each gateway, and of one account on each.
MAX_CONCURRENT, SHARE = 20, 8
# Registrations from one address in a minute; these tests make 32.
REGISTERED = 60
# Runs that may wait: one of each account of the crowd, although all are new at one address.
WAITING = 8
MODEL = {"modelUrl": "lilypad/tiny-text-classification"}


@pytest.fixture(scope="module")
def narrow(hub: RunningHub) -> Iterator[Stack]:
    limits = {"RATE_API": "10000000", "RATE_GENERATE": "10000000", "RATE_REGISTER": str(REGISTERED)}
    places = {"MAX_REQUESTS": str(MAX_CONCURRENT), "MAX_REQUESTS_PER_ACCOUNT": str(SHARE)}
    services = (
        Service("gateway", replicas=2, database=True, http=True),
        Service("generator", hub=True),
        # Without a worker, its runs wait indefinitely.
        Service("benchmarker", database=True),
    )
    waiting = {"MAX_WAITING_PER_ACCOUNT": str(WAITING)}
    environment = {"HF_ENDPOINT": hub.url, **limits, **places, **waiting}
    with Stack(services=services, environment=environment, flood_limit=1_000_000) as running:
        yield running


@pytest.fixture
def crowd(narrow: Stack) -> Iterator[list[Account]]:
    """More accounts than the capacity has room for."""
    accounts = [Account(narrow.url) for _ in range(8)]
    yield accounts
    for account in accounts:
        account.http.close()


def test_malformed_registrations_count_against_the_limit(narrow: Stack) -> None:
    elsewhere = httpx2.HTTPTransport(local_address="127.0.0.99")
    with httpx2.Client(base_url=narrow.url, transport=elsewhere, timeout=60) as http:
        answers = [http.post("/v1/api/accounts", json={"no": "account"}) for _ in range(70)]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [400] * REGISTERED + [429] * (70 - REGISTERED)
    assert error_of(answers[-1])["details"]["limit"] == REGISTERED


@pytest.fixture
def http(narrow: Stack) -> Iterator[httpx2.Client]:
    """A client with as many connections as callers."""
    unlimited = httpx2.Limits(max_connections=None)
    with httpx2.Client(base_url=narrow.url, timeout=130, limits=unlimited) as client:
        yield client


def under_way(stack: Stack) -> int:
    """Return the number of forwarded requests without an answer yet."""
    match = re.search(
        r"cluster.gateway.upstream_rq_active: (\d+)",
        stack.edge.admin("GET", "/stats?filter=^cluster.gateway.upstream_rq_active$"),
    )
    assert match
    return int(match[1])


def test_requests_beyond_capacity_are_refused_at_once_and_the_others_are_served(
    narrow: Stack, crowd: list[Account], http: httpx2.Client
) -> None:
    assert crowd[0].generate(MODEL["modelUrl"]).status_code == 200
    generator = narrow.processes["generator-1"].pid
    sent = 5 * 2 * MAX_CONCURRENT

    def generate(number: int) -> httpx2.Response:
        headers = crowd[number % len(crowd)].headers
        return http.post("/v1/api/generate", json=MODEL, headers=headers)

    with ThreadPoolExecutor(sent) as pool:
        os.kill(generator, signal.SIGSTOP)
        try:
            answers = [pool.submit(generate, number) for number in range(sent)]
            # Nothing has been generated yet: all requests beyond capacity were refused.
            wait_until(lambda: sum(map(Future.done, answers)) >= sent - 2 * MAX_CONCURRENT)
            refused = [done.result() for done in answers if done.done()]
            for path in ("/healthz", "/readyz"):
                for method in ("GET", "HEAD"):
                    assert http.request(method, path).status_code == 200
        finally:
            os.kill(generator, signal.SIGCONT)
    for answer in refused:
        assert (answer.status_code, error_of(answer)["code"]) == (503, 5003)
        assert answer.headers["retry-after"] == "1"
    served = Counter(done.result().status_code for done in answers)
    assert set(served) == {503, 200}
    assert served[200] <= 2 * MAX_CONCURRENT
    # The bus may have disconnected the generator, which reconnects by itself.
    wait_until(lambda: crowd[0].generate(MODEL["modelUrl"]).status_code == 200)


def test_an_account_gets_its_share_of_capacity_and_no_more(
    narrow: Stack, crowd: list[Account], http: httpx2.Client
) -> None:
    greedy, modest = crowd[:2]
    assert greedy.generate(MODEL["modelUrl"]).status_code == 200
    generator = narrow.processes["generator-1"].pid

    def generate(_: int) -> httpx2.Response:
        return http.post("/v1/api/generate", json=MODEL, headers=greedy.headers)

    with ThreadPoolExecutor(60) as pool:
        os.kill(generator, signal.SIGSTOP)
        try:
            answers = [pool.submit(generate, number) for number in range(60)]
            wait_until(lambda: sum(map(Future.done, answers)) >= 60 - 2 * SHARE)
            refused = [done.result() for done in answers if done.done()]
            listed = modest.http.get("/v1/api/benchmark", headers=modest.headers)
            assert listed.status_code == 200
        finally:
            os.kill(generator, signal.SIGCONT)
    for answer in refused:
        assert error_of(answer)["details"] == {"limit": SHARE}


def test_accounts_waiting_for_their_runs_block_no_other_account(
    narrow: Stack, crowd: list[Account], http: httpx2.Client
) -> None:
    stranger, *patient = crowd
    runs = {}
    for account in patient:
        body = {"modelId": MODEL["modelUrl"], "batchSizes": [1]}
        answer = account.post("/v1/api/benchmark", body, headers={"Prefer": "respond-async"})
        assert answer.status_code == 202, answer.text
        runs[account.id] = answer.headers["location"]

    def wait(account: Account) -> str:
        headers = {**account.headers, "Prefer": "wait=110"}
        while (answer := http.get(runs[account.id], headers=headers)).status_code == 503:
            pass  # they all come at once
        state: str = answer.json()["data"]["state"]
        return state

    # Far more than both gateways have capacity for, and fewer per account than a gateway holds.
    waits = [account for account in patient for _ in range(9)]
    with ThreadPoolExecutor(len(waits)) as pool:
        waiting = [pool.submit(wait, account) for account in waits]
        wait_until(lambda: under_way(narrow) >= len(waits))

        def served() -> bool:
            call = partial(stranger.http.get, "/v1/api/benchmark", headers=stranger.headers)
            return {call().status_code for _ in range(20)} == {200}

        wait_until(served)
        assert under_way(narrow) >= len(waits)
        for account in patient:
            account.http.delete(runs[account.id], headers=account.headers)
        assert {done.result() for done in waiting} == {"canceled"}


def test_new_accounts_of_one_address_cannot_fill_the_queue_together(
    narrow: Stack, crowd: list[Account]
) -> None:
    def start(account: Account, path: str, body: dict[str, object]) -> httpx2.Response:
        headers = {**account.headers, "Prefer": "respond-async", "X-Forwarded-For": "8.8.8.8"}
        return account.http.post(path, json=body, headers=headers)

    measure = partial(start, path="/v1/api/benchmark", body={"modelId": MODEL["modelUrl"]})
    with ThreadPoolExecutor(20) as pool:  # two of each account
        answers = [*pool.map(measure, crowd + crowd)]
    started = [answer for answer in answers if answer.status_code == 202]
    assert Counter(answer.status_code for answer in answers) == {202: WAITING, 429: 16 - WAITING}
    verified = start(crowd[0], "/v1/api/generate", {**MODEL, "verify": True})
    assert "new accounts at this network address" in error_of(verified)["message"]

    other = crowd[0]
    with from_address(narrow, "127.0.0.98") as elsewhere:
        other.http, here = elsewhere, other.http
        answer = measure(other)
        assert answer.status_code == 202, "the others are at another address"
        started.append(answer)
        for answer in started:
            for account in crowd:
                account.http.delete(answer.headers["location"], headers=account.headers)
        other.http = here
