"""Benchmarks through the edge: real torch on small real models."""

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from common import bus
from common.contracts.measuring import ANNOUNCE, Announcement
from hub.testing import RunningHub
from integration.caller import Account, error_of
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
SMALL = {"batchSizes": [1, 2], "iterations": 4, "warmup": 1}


@pytest.fixture(scope="module")
def stack(hub: RunningHub, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    environment = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path_factory.mktemp("models")),
        # Two threads wait for each other on a machine that does other things too.
        "OMP_NUM_THREADS": "1",
        "SWEEP_INTERVAL": "0.5",
    }
    with Stack(environment=environment) as running:
        yield running


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    made = Account(stack.url)
    made.http.timeout = 125
    yield made
    made.http.close()


def benchmark(
    account: Account, version: str = "v1", headers: dict[str, str] | None = None, **fields
):
    body = {"modelId": MODEL, **SMALL, **fields}
    return account.post(f"/{version}/api/benchmark", body, headers=headers or {})


def get(account: Account, path: str, **headers: str):
    return account.http.get(path, headers={**account.headers, **headers})


def followed(account: Account, accepted, **headers: str) -> dict[str, Any]:
    """The run when it is over, for a client that was told where to look."""
    while True:
        where = accepted.headers["location"]
        run = get(account, where, Prefer="wait=60", **headers).json()["data"]
        if run["state"] not in {"queued", "running"}:
            return run


def measured(account: Account, **fields) -> dict[str, Any]:
    """The run when it is over, be it that the edge waited for it or gave up waiting."""
    answer = benchmark(account, **fields)
    if answer.status_code == 202:
        return followed(account, answer)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def test_v1_answers_with_the_results_as_the_reference_promises(account: Account) -> None:
    data = measured(account, plotFormat="series")
    results, analysis = data["results"], data["analysis"]
    for name in ("throughput", "latency", "memory_usage", "cost_per_inference"):
        assert [value > 0 for value in results[name]] == [True, True], name
    assert analysis["optimal_batch_size"] in {1, 2}
    assert all(isinstance(line, str) for line in analysis["resource_recommendations"])
    assert (data["state"], data["error"]) == ("succeeded", None)
    # It is drawn, and on record as metrics of that model.
    assert data["plots"]["latency"]["value"] == results["latency"]
    answer = get(account, f"/v1/api/benchmark/{data['id']}/plot?plotFormat=plotly")
    assert answer.json()["data"]["plots"]["latency"]["data"][0]["y"] == results["latency"]
    optimum = results["batchSizes"].index(analysis["optimal_batch_size"])
    mean = None
    for _ in range(600):  # it is on its way to the metrics service
        answer = account.post("/v1/api/monitor", {"modelId": MODEL, "days": 1})
        if answer.status_code == 200:  # before that the model has no series
            mean = answer.json()["data"]["statistics"]["throughput"]["mean"]
        if mean is not None:
            break
        time.sleep(0.2)
    assert mean == pytest.approx(results["throughput"][optimum])


def test_who_does_not_wait_is_told_where_to_look(account: Account) -> None:
    beta = {"X-Lilypad-Beta": "v2"}
    ways = [("v1", {"Prefer": "respond-async"}), ("v1", {"Prefer": "wait=0"}), ("v2", beta)]
    for version, headers in ways:
        answer = benchmark(account, version, headers, batchSizes=[1])
        assert answer.status_code == 202, answer.text
        run = answer.json()["data"]
        where = answer.headers["location"]
        assert where == f"/{version}/api/benchmark/{run['id']}"
        assert run["state"] in {"queued", "running"}
        assert run["results"] is None
        if version == "v1":  # the last one is waited for
            account.http.delete(where, headers=account.headers)
    over = followed(account, answer, **beta)
    assert over["state"] == "succeeded"
    assert over["results"]["batchSizes"] == [1]
    assert over["progress"]["done"] == over["progress"]["total"] == 4


def test_a_run_is_canceled_listed_and_nobody_elses(stack: Stack, account: Account) -> None:
    sync = {"Prefer": "respond-async"}
    run = benchmark(account, headers=sync, batchSizes=[64], iterations=10_000).json()["data"]
    where = f"/v1/api/benchmark/{run['id']}"
    stranger = Account(stack.url)
    of_another = [
        get(stranger, where),
        stranger.http.delete(where, headers=stranger.headers),
        get(stranger, f"{where}/plot"),
    ]
    assert {answer.status_code for answer in of_another} == {404}
    assert {error_of(answer)["code"] for answer in of_another} == {3001}
    assert get(stranger, "/v1/api/benchmark").json()["data"]["runs"] == []
    stranger.http.close()
    canceled = account.http.delete(where, headers=account.headers)
    assert canceled.json()["data"]["state"] == "canceled"
    [listed] = get(account, "/v1/api/benchmark").json()["data"]["runs"]
    assert (listed["id"], listed["state"]) == (run["id"], "canceled")
    assert error_of(get(account, f"{where}/plot"))["code"] == 1004


def test_five_runs_an_hour_are_the_limit(account: Account) -> None:
    wait = {"Prefer": "respond-async"}
    for _ in range(5):
        answer = benchmark(account, headers=wait)
        assert answer.status_code == 202
        run = answer.json()["data"]["id"]
        account.http.delete(f"/v1/api/benchmark/{run}", headers=account.headers)
    refused = benchmark(account, headers=wait)
    assert (refused.status_code, error_of(refused)["code"]) == (429, 2002)
    assert error_of(refused)["details"]["limit"] == 5
    assert int(refused.headers["retry-after"]) > 3000


def test_a_repeated_request_with_its_key_is_one_run(account: Account) -> None:
    headers = {"Prefer": "respond-async", "Idempotency-Key": "0f1c6f62-benchmark"}
    first, second = (benchmark(account, headers=headers, batchSizes=[1]) for _ in range(2))
    assert first.json()["data"]["id"] == second.json()["data"]["id"]
    assert second.headers["idempotent-replayed"] == "true"


@pytest.mark.parametrize("task", ["sentence-similarity", "unconditional-image-generation"])
def test_models_of_other_libraries_are_measured_by_these(account: Account, task: str) -> None:
    data = measured(account, modelId=f"lilypad/tiny-{task}", steps=2)
    assert all(value > 0 for value in data["results"]["throughput"])
    setup = data["results"]["setup"]
    assert setup["operations"] > 0
    assert setup["tokens"] == (128 if task == "sentence-similarity" else None)


def test_a_run_that_fails_answers_with_its_reason(account: Account) -> None:
    answer = benchmark(account, inputTokens=4096)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["details"]["reason"]) == (422, 1004, "tokens")
    assert "128" in error["message"]


def announce(stack: Stack, **machine: Any) -> None:
    """As a worker on another machine says what it has."""

    async def say() -> None:
        async with bus.connect(stack.nats.url("worker"), "worker") as connection:
            await connection.call(ANNOUNCE, Announcement(worker="another", **machine))

    asyncio.run(say())


# The last one here: while this machine is known, what names no device would wait for it.
def test_what_cannot_run_is_refused_before_it_is_queued_and_costs_nothing(
    stack: Stack, account: Account
) -> None:
    gpu = {
        "name": "small GPU", "device_class": "gpu", "dtypes": ["float32"], "compiles": False,
        "attentions": ["eager", "sdpa"],
    }  # fmt: skip
    before = benchmark(account, device="cuda")
    assert error_of(before)["details"]["reason"] == "device"
    announce(stack, memory=0.1, **gpu)
    refusals = [
        ({"batchSizes": [10**9]}, 400, 1003, "4096"),
        ({"modelId": "lilypad/absent"}, 404, 1001, "no such model"),
        ({"modelId": "lilypad/tiny-unknown-task"}, 422, 1002, "task"),
        ({"modelId": "lilypad/tiny-multiple-choice"}, 422, 1004, "text-generation"),
        ({"modelId": "lilypad/tiny-pickle"}, 422, 1002, "safetensors"),
        ({"modelId": "lilypad/too-big"}, 422, 1002, "81,559 that a provider offers"),
        ({"device": "tpu"}, 400, 1003, "'cuda'"),
        ({"device": "cuda", "dtype": "bfloat16"}, 422, 1004, "it can in float32"),
        ({"device": "cuda", "dtype": "float32", "compile": True}, 422, 1004, "compiler"),
        ({"device": "cuda", "attention": "flash_attention_2"}, 422, 1004, "eager, sdpa are"),
        ({"device": "cuda", "dtype": "float32"}, 422, 1004, "may take 0 MiB on the largest"),
    ]
    for body, status, code, words in refusals:
        answer = benchmark(account, **body)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (status, code), (body, error)
        assert words in str(error), (body, error)
    assert get(account, "/v1/api/benchmark").json()["data"]["runs"] == []
    for _ in range(5):  # all of an hour's are left
        wait = {"Prefer": "respond-async"}
        answer = benchmark(account, headers=wait, device="cpu")
        assert answer.status_code == 202, answer.text
        where = answer.headers["location"]
        account.http.delete(where, headers=account.headers)
