"""Modules that are run before they are handed out, through the edge: real torch, real modules."""

import time
from collections.abc import Iterator

import pytest

from hub.testing import RunningHub
from integration.caller import Account, error_of
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
BETA = {"X-Lilypad-Beta": "v2"}


@pytest.fixture(scope="module")
def stack(hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path_factory.mktemp("models")),
        # Two threads wait for each other on a machine that does other things too.
        "OMP_NUM_THREADS": "1",
        "SWEEP_INTERVAL": "0.5",
        "VERIFICATIONS_PER_HOUR": "3",
    }
    with Stack(environment=environment) as running:
        yield running


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    made = Account(stack.url)
    made.http.timeout = 125
    yield made
    made.http.close()


def verify(account: Account, version: str = "v2", model: str = MODEL, **headers: str):
    beta = BETA if version == "v2" else {}
    body = {"modelUrl": model, "verify": True}
    return account.post(f"/{version}/api/generate", body, headers={**beta, **headers})


def wait(account: Account, where: str):
    for _ in range(3):
        headers = {**account.headers, **BETA, "Prefer": "wait=100"}
        data = account.http.get(where, headers=headers).json()["data"]
        if data["verification"]["state"] in {"succeeded", "failed", "canceled"}:
            return data
    raise AssertionError(f"still {data['verification']} after 300 s")


def test_v2_waits_and_has_the_verdict_and_the_sample_output_in_its_answer(
    account: Account,
) -> None:
    answer = verify(account)
    data = answer.json()["data"]
    if answer.status_code == 202:  # on a very slow machine
        data = wait(account, answer.headers["location"])
    verdict = data["verification"]["verdict"]
    assert verdict["verdict"] == "passed", verdict
    assert data["verification"]["state"] == "succeeded"
    # What the module itself wrote, of the very model that it was made for.
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
    # The files are those that are handed out without it.
    plain = account.generate(MODEL).json()["data"]
    assert plain["files"] == data["files"]
    assert "verification" not in plain


def test_who_does_not_wait_is_told_where_to_look(stack: Stack, account: Account) -> None:
    answer = verify(account, "v1", Prefer="respond-async")
    assert answer.status_code == 202, answer.text
    data = answer.json()["data"]
    where = f"/v1/api/generate/{data['verification']['id']}"
    assert answer.headers["location"] == where
    assert data["verification"]["verdict"] is None
    assert set(data["files"]) >= {"module.yaml", "run_inference.py"}
    stranger = Account(stack.url)
    for method in ("get", "delete"):
        refused = getattr(stranger.http, method)(where, headers=stranger.headers)
        assert (refused.status_code, error_of(refused)["code"]) == (404, 3001)
    stranger.http.close()
    assert wait(account, where)["verification"]["verdict"]["verdict"] == "passed"
    # It is no benchmark.
    benchmarks = account.http.get("/v1/api/benchmark", headers=account.headers)
    assert benchmarks.json()["data"]["runs"] == []
    run = data["verification"]["id"]
    lost = account.http.get(f"/v1/api/benchmark/{run}", headers=account.headers)
    assert lost.status_code == 404


def test_v1_says_how_to_ask_and_a_download_has_no_place_for_it(account: Account) -> None:
    refused = verify(account, "v1")
    error = error_of(refused)
    assert (refused.status_code, error["code"]) == (400, 1003)
    assert "Prefer" in error["message"]
    assert error["details"]["fields"][0]["path"] == "verify"
    body = {"modelUrl": MODEL, "verify": True}
    assert account.post("/v1/api/download", body).status_code == 400


def test_one_that_is_given_up_is_over_and_an_hour_has_room_for_so_many(account: Account) -> None:
    for _ in range(3):
        answer = verify(account, "v1", Prefer="respond-async")
        assert answer.status_code == 202, answer.text
        where = answer.headers["location"]
        canceled = account.http.delete(where, headers=account.headers).json()["data"]
        assert canceled["verification"]["state"] == "canceled"
    refused = verify(account, "v1", Prefer="respond-async")
    assert (refused.status_code, error_of(refused)["code"]) == (429, 2002)
    assert error_of(refused)["details"]["limit"] == 3


def test_a_model_that_no_module_is_made_for_is_refused_as_ever(account: Account) -> None:
    refused = verify(account, model="lilypad/tiny-pickle")
    assert (refused.status_code, error_of(refused)["code"]) == (422, 1002)


def test_what_was_measured_is_in_the_next_module_of_that_account_alone(
    stack: Stack, account: Account
) -> None:
    before = account.generate(MODEL).json()["data"]
    assert before["model"]["vramSource"] == "headers"
    body = {"modelId": MODEL, "batchSizes": [1, 2, 4], "iterations": 4, "warmup": 1}
    answer = account.post("/v1/api/benchmark", body)
    assert answer.status_code == 200, answer.text
    run = answer.json()["data"]
    for _ in range(60):  # a benchmarker that is slow to answer is not waited for
        after = account.generate(MODEL).json()["data"]
        if after["model"]["vramSource"] == "measured":
            break
        time.sleep(6)
    assert after["model"]["vramSource"] == "measured"
    assert after["model"]["measured"]["run"] == run["id"]
    assert f"batchSize: {run['analysis']['optimal_batch_size']}\n" in after["files"]["module.yaml"]
    assert run["id"] in after["files"]["module.yaml"]
    assert run["id"] in after["files"]["README.md"]
    assert account.generate(MODEL).json()["data"]["files"] == after["files"]
    stranger = Account(stack.url)
    assert stranger.generate(MODEL).json()["data"]["files"] == before["files"]
    stranger.http.close()
