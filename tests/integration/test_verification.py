"""Modules that a worker runs before the answer: real torch, real modules."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from hub.app import MEMBER_TOKEN
from integration.caller import PASSWORD, Account, error_of
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
BETA = {"X-Lilypad-Beta": "v2"}


@pytest.fixture(scope="module")
def stack(measuring_stack: Stack) -> Stack:
    return measuring_stack


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    account = Account(stack.url)
    account.http.timeout = 125
    yield account
    account.http.close()


def verify(account: Account, version: str = "v2", model: str = MODEL, **headers: str):
    beta = BETA if version == "v2" else {}
    body = {"modelUrl": model, "verify": True}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return account.post(f"/{version}/api/generate", body, headers={**beta, **sent})


def wait(account: Account, where: str):
    for _ in range(3):
        headers = {**account.headers, **BETA, "Prefer": "wait=100"}
        data = account.http.get(where, headers=headers).json()["data"]
        if data["verification"]["state"] in {"succeeded", "failed", "canceled"}:
            return data
    raise AssertionError(f"still {data['verification']} after 300 s")


def state_of(account: Account, where: str) -> str:
    answer = account.http.get(where, headers={**account.headers, **BETA})
    state: str = answer.json()["data"]["verification"]["state"]
    return state


def test_a_v2_request_waits_and_its_answer_and_retries_contain_the_verdict_and_the_output(
    stack: Stack, account: Account
) -> None:
    def call(_: int) -> httpx2.Response:
        return verify(account, idempotency_key="the same")

    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(call, range(3)))
    assert {answer.status_code for answer in answers} <= {200, 202}
    [run] = {answer.json()["data"]["verification"]["id"] for answer in answers}
    for answer in answers:  # retries that join the run; on a very slow machine, all of them
        if answer.status_code == 202:
            assert answer.headers["location"] == f"/v2/api/generate/{run}"
    first = max(answers, key=lambda answer: answer.status_code == 200)
    data = first.json()["data"]
    if first.status_code == 202:
        data = wait(account, first.headers["location"])
    verdict = data["verification"]["verdict"]
    assert verdict["verdict"] == "passed", verdict
    assert data["verification"]["state"] == "succeeded"
    # The module's own result, for exactly the model that it was generated for.
    result = verdict["result"]
    assert result["status"] == "success"
    assert result["model"]["commit"] == data["model"]["commit"]
    [labels] = result["outputs"]
    assert {"label", "score"} == set(labels[0])
    assert len(verdict["sample"]["inputs"]) == 1
    assert verdict["network"] in {"off", "unused"}
    assert 0 < verdict["peakMemory"] <= verdict["limits"]["memory"]
    assert verdict["exitCode"] == 0
    assert data["validation"]["status"] == "passed"
    assert data["validation"]["checks"][-1]["name"] == "run"
    # The files are the same as without verification.
    plain = account.generate(MODEL).json()["data"]
    assert plain["files"] == data["files"]
    assert "verification" not in plain
    # v1 shows the run as well, to its account only.
    where = f"/v1/api/generate/{run}"
    assert wait(account, where)["verification"]["verdict"]["verdict"] == "passed"
    stranger = Account(stack.url)
    for method in ("get", "delete"):
        refused = getattr(stranger.http, method)(where, headers=stranger.headers)
        assert (refused.status_code, error_of(refused)["code"]) == (404, 3001)
    stranger.http.close()
    # A verification is not listed as a benchmark.
    benchmarks = account.http.get("/v1/api/benchmark", headers=account.headers)
    assert benchmarks.json()["data"]["runs"] == []
    lost = account.http.get(f"/v1/api/benchmark/{run}", headers=account.headers)
    assert lost.status_code == 404


def test_v1_refuses_verify_and_says_how_to_request_it_and_download_refuses_it_too(
    account: Account,
) -> None:
    refused = verify(account, "v1")
    error = error_of(refused)
    assert (refused.status_code, error["code"]) == (400, 1003)
    assert "Prefer" in error["message"]
    assert error["details"]["fields"][0]["path"] == "verify"
    body = {"modelUrl": MODEL, "verify": True}
    assert account.post("/v1/api/download", body).status_code == 400


def test_an_asynchronous_verification_gets_a_location_and_counts_against_an_hourly_limit(
    account: Account,
) -> None:
    for _ in range(2):
        answer = verify(account, "v1", Prefer="respond-async")
        assert answer.status_code == 202, answer.text
        data = answer.json()["data"]
        where = f"/v1/api/generate/{data['verification']['id']}"
        assert answer.headers["location"] == where
        assert data["verification"]["verdict"] is None
        assert set(data["files"]) >= {"module.yaml", "run_inference.py"}
        # A verification that no worker has begun does not count against the hour.
        while state_of(account, where) == "queued":
            time.sleep(0.2)
        canceled = account.http.delete(where, headers=account.headers).json()["data"]
        assert canceled["verification"]["state"] == "canceled"
    refused = verify(account, "v1", Prefer="respond-async")
    assert (refused.status_code, error_of(refused)["code"]) == (429, 2002)
    assert error_of(refused)["details"]["limit"] == 2


@pytest.mark.long
def test_a_model_of_pickled_weights_is_converted_and_run_by_the_worker(account: Account) -> None:
    answer = verify(account, model="lilypad/pickled")
    data = answer.json()["data"]
    if answer.status_code == 202:
        data = wait(account, answer.headers["location"])
    verdict = data["verification"]["verdict"]
    assert verdict["verdict"] == "passed", verdict
    assert 0 < verdict["peakMemory"] <= verdict["limits"]["memory"]


def test_an_unsupported_model_is_refused_with_verify_too(account: Account) -> None:
    refused = verify(account, model="lilypad/tiny-pickle")
    assert (refused.status_code, error_of(refused)["code"]) == (422, 1002)


def test_a_private_model_is_verified_only_for_an_account_whose_token_can_read_it(
    stack: Stack, account: Account
) -> None:
    private = "lilypad/tiny-private"
    refused = verify(account, model=private)
    assert refused.status_code == 404
    assert "store your Hub token" in refused.json()["error"]["message"]
    stored = account.http.put(
        "/v1/api/account/hub-token", json={"token": MEMBER_TOKEN}, auth=(account.email, PASSWORD)
    )
    assert stored.status_code == 200, stored.text
    answer = verify(account, model=private, Idempotency_Key="once")
    data = answer.json()["data"]
    if answer.status_code == 202:  # on a very slow machine
        data = wait(account, answer.headers["location"])
    assert data["model"]["readBy"] == "account"
    assert data["verification"]["verdict"]["verdict"] == "passed", data["verification"]
    other = Account(stack.url)
    stranger = verify(other, model=f"{private}/tree/{data['model']['commit']}")
    assert stranger.status_code in {400, 404}
    same_key = verify(other, model=private, Idempotency_Key="once")
    assert same_key.status_code == 404
    # Neither the model's files nor the token are left behind.
    kept = Path(stack.environment["HF_HOME"])
    assert not [path for path in kept.rglob("*") if "private" in path.name or "own" in path.name]
    for log in stack.logs.glob("*.log"):
        assert MEMBER_TOKEN not in log.read_text(), log
    other.http.close()


def test_a_verification_whose_hub_token_was_deleted_fails_with_that_reason(
    stack: Stack, account: Account
) -> None:
    path, login = "/v1/api/account/hub-token", (account.email, PASSWORD)
    account.http.put(path, json={"token": MEMBER_TOKEN}, auth=login)
    stack.stop("worker-1")
    try:
        answer = verify(account, model="lilypad/tiny-gated", Prefer="respond-async")
        assert answer.status_code == 202, answer.text
        assert account.http.delete(path, auth=login).status_code == 204
    finally:
        stack.restart("worker-1")
    error = wait(account, answer.headers["location"])["verification"]["error"]
    assert (error["reason"], error["status"]) == ("hub-token", 422)
