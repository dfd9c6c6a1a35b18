"""Benchmarks through the edge: real torch on small real models."""

import asyncio
import secrets
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from common import bus
from common.contracts.measuring import ANNOUNCE, Announcement
from integration.caller import Account, error_of
from integration.collector import Collector
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
# Of the run that several tests look at.
TRACE = secrets.token_hex(16)
SMALL = {"batchSizes": [1, 2], "iterations": 4, "warmup": 1}


@pytest.fixture(scope="module")
def stack(measuring_stack: Stack) -> Stack:
    return measuring_stack


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    account = Account(stack.url)
    account.http.timeout = 125
    yield account
    account.http.close()


def benchmark(
    account: Account, version: str = "v1", headers: dict[str, str] | None = None, **fields
):
    body = {"modelId": MODEL, **SMALL, **fields}
    return account.post(f"/{version}/api/benchmark", body, headers=headers or {})


def get(account: Account, path: str, **headers: str):
    return account.http.get(path, headers={**account.headers, **headers})


def followed(account: Account, accepted, **headers: str) -> dict[str, Any]:
    """Poll a `Location` until the run has finished, and return the run."""
    while True:
        where = accepted.headers["location"]
        run = get(account, where, Prefer="wait=60", **headers).json()["data"]
        if run["state"] not in {"queued", "running"}:
            return run


def measured(account: Account, **fields) -> dict[str, Any]:
    """Return the finished run, which the answer contains or its `Location` leads to."""
    answer = benchmark(account, **fields)
    if answer.status_code == 202:
        return followed(account, answer)
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


@pytest.fixture(scope="module")
def measurement(stack: Stack) -> Iterator[tuple[Account, dict[str, Any]]]:
    """An account and its run, which several tests inspect."""
    account = Account(stack.url)
    account.http.timeout = 125
    headers = {"traceparent": f"00-{TRACE}-{secrets.token_hex(8)}-00"}
    yield account, measured(account, headers=headers, plotFormat="series")
    account.http.close()


def test_v1_answers_with_the_results_that_the_reference_describes(
    measurement: tuple[Account, dict[str, Any]],
) -> None:
    account, data = measurement
    results, analysis = data["results"], data["analysis"]
    for name in ("throughput", "latency", "memory_usage", "cost_per_inference"):
        assert [value > 0 for value in results[name]] == [True, True], name
    assert analysis["optimal_batch_size"] in {1, 2}
    assert all(isinstance(line, str) for line in analysis["resource_recommendations"])
    assert (data["state"], data["error"]) == ("succeeded", None)
    assert data["progress"]["done"] == data["progress"]["total"] == 8
    assert all(point["generation"] is None for point in results["points"])
    # The run is drawn, and recorded as metrics of that model.
    assert data["plots"]["latency"]["value"] == results["latency"]
    answer = get(account, f"/v1/api/benchmark/{data['id']}/plot?plotFormat=plotly")
    assert answer.json()["data"]["plots"]["latency"]["data"][0]["y"] == results["latency"]
    optimum = results["batchSizes"].index(analysis["optimal_batch_size"])
    answer = account.post("/v1/api/monitor", {"modelId": MODEL, "days": 1})
    mean = answer.json()["data"]["statistics"]["throughput"]["mean"]
    assert mean == pytest.approx(results["throughput"][optimum])


def test_a_runs_request_worker_calls_and_sql_are_one_trace(
    measurement: tuple[Account, dict[str, Any]], collector: Collector
) -> None:
    _, run = measurement
    job, take = "job.benchmarker.measure", "rpc.benchmarker.take"
    ends = ("gateway", "POST /benchmark"), ("worker", job), ("worker", take)
    spans = collector.wait_for(TRACE, *ends, ("benchmarker", take), ("benchmarker", "UPDATE"))
    [worked] = [span for _, span in spans if span.name == job]
    assert run["id"] in {a.value.string_value for a in worked.attributes}
    by_id = {span.span_id: (service, span) for service, span in spans}

    def above(span: Any) -> list[tuple[str, str]]:
        """Return the spans between a span and the caller's own, as services and names."""
        service, parent = by_id.get(span.parent_span_id, ("", None))
        return [] if parent is None else [(service, parent.name), *above(parent)]

    ways = [above(span) for _, span in spans if span.name == "UPDATE"]
    end = ("gateway", "POST /benchmark")
    taken = [("benchmarker", take), ("worker", take), ("worker", job)]
    assert [way for way in ways if way[:3] == taken and way[-1] == end], ways


def test_only_the_accounts_own_modules_carry_the_measured_figures(
    account: Account, measurement: tuple[Account, dict[str, Any]]
) -> None:
    owner, run = measurement
    for _ in range(60):  # an answer of a slow benchmarker is not waited for
        module = owner.generate(MODEL).json()["data"]
        if module["model"]["vramSource"] == "measured":
            break
        time.sleep(6)
    assert module["model"]["vramSource"] == "measured"
    assert module["model"]["measured"]["run"] == run["id"]
    optimum = run["analysis"]["optimal_batch_size"]
    assert f"batchSize: {optimum}\n" in module["files"]["module.yaml"]
    assert run["id"] in module["files"]["module.yaml"]
    assert run["id"] in module["files"]["README.md"]
    assert owner.generate(MODEL).json()["data"]["files"] == module["files"]
    strangers = account.generate(MODEL).json()["data"]
    assert strangers["model"]["vramSource"] == "headers"
    assert run["id"] not in str(strangers)


def test_a_caller_who_does_not_wait_gets_a_location(account: Account) -> None:
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
        account.http.delete(where, headers={**account.headers, **headers})
    over = followed(account, answer, **beta)
    assert over["state"] == "canceled"
    assert error_of(get(account, f"{where}/plot", **beta))["code"] == 1004


def test_an_account_may_start_five_runs_an_hour_and_an_unmeasured_run_does_not_count(
    account: Account,
) -> None:
    wait = {"Prefer": "respond-async"}
    accepted = [benchmark(account, headers=wait, batchSizes=[1]) for _ in range(5)]
    assert [answer.status_code for answer in accepted] == [202] * 5
    listed = get(account, "/v1/api/benchmark").json()["data"]["runs"]
    waiting = [run["queue"] for run in reversed(listed) if run["state"] == "queued"]
    # Each waits for those before it as well.
    for told in ("position", "estimateSeconds"):
        assert [queue[told] for queue in waiting] == sorted({queue[told] for queue in waiting})
    refused = benchmark(account, headers=wait)
    assert (refused.status_code, error_of(refused)["code"]) == (429, 2002)
    assert error_of(refused)["details"]["limit"] == 5
    assert int(refused.headers["retry-after"]) > 3000
    assert refused.headers["ratelimit-policy"].endswith('"benchmark";q=5;w=3600')
    last = accepted[-1].headers["location"]
    canceled = account.http.delete(last, headers=account.headers).json()["data"]
    if canceled["progress"]["done"] == 0:  # it was still waiting, or had just started
        assert benchmark(account, headers=wait).status_code == 202
    for run in get(account, "/v1/api/benchmark").json()["data"]["runs"]:
        account.http.delete(f"/v1/api/benchmark/{run['id']}", headers=account.headers)


def test_a_request_repeated_with_its_idempotency_key_starts_one_run(account: Account) -> None:
    headers = {"Prefer": "respond-async", "Idempotency-Key": "0f1c6f62-benchmark"}
    first, second = (benchmark(account, headers=headers, batchSizes=[1]) for _ in range(2))
    assert first.json()["data"]["id"] == second.json()["data"]["id"]
    assert second.headers["idempotent-replayed"] == "true"
    account.http.delete(first.headers["location"], headers=account.headers)


def test_a_retry_during_a_run_gets_the_runs_address_and_a_canceled_run_keeps_its_figures(
    stack: Stack, account: Account
) -> None:
    headers = {"Idempotency-Key": "0f1c6f62-under-way"}
    request = {"batchSizes": [1, 2], "iterations": 10_000}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(benchmark, account, headers=headers, **request)
        while not (runs := get(account, "/v1/api/benchmark").json()["data"]["runs"]):
            time.sleep(1)  # a hundred requests a minute are the limit
        retry = benchmark(account, headers=headers, **request)
        assert retry.status_code == 202
        where = retry.headers["location"]
        assert where.endswith(retry.json()["data"]["id"])
        while get(account, where).json()["data"]["progress"]["done"] == 0:
            time.sleep(1)
        check_invisible(where, stack)
        canceled = account.http.delete(where, headers=account.headers).json()["data"]
        assert canceled["state"] == "canceled"
        assert canceled["id"] == runs[0]["id"]
        answer = first.result()
        if answer.status_code == 202:  # on a very slow machine it did not wait for the end
            assert answer.headers["location"] == where
        else:
            assert error_of(answer)["details"]["id"] == canceled["id"]
    assert [latency for latency in canceled["results"]["latency"] if latency is not None]
    assert get(account, where).json()["data"]["results"] == canceled["results"]
    [listed] = get(account, "/v1/api/benchmark").json()["data"]["runs"]
    assert (listed["id"], listed["state"]) == (canceled["id"], "canceled")


def check_invisible(where: str, stack: Stack) -> None:
    """Check that another account can neither read nor cancel the run."""
    stranger = Account(stack.url)
    answers = [
        get(stranger, where),
        stranger.http.delete(where, headers=stranger.headers),
        get(stranger, f"{where}/plot"),
    ]
    assert {answer.status_code for answer in answers} == {404}
    assert {error_of(answer)["code"] for answer in answers} == {3001}
    assert get(stranger, "/v1/api/benchmark").json()["data"]["runs"] == []
    stranger.http.close()


@pytest.mark.long
@pytest.mark.parametrize("task", ["sentence-similarity", "unconditional-image-generation"])
def test_models_of_other_libraries_are_measured_with_their_own_library(
    account: Account, task: str
) -> None:
    data = measured(account, modelId=f"lilypad/tiny-{task}", steps=2, batchSizes=[1])
    assert all(value > 0 for value in data["results"]["throughput"])
    setup = data["results"]["setup"]
    assert setup["operations"] > 0
    assert setup["tokens"] == (128 if task == "sentence-similarity" else None)


def test_inputs_that_the_model_cannot_read_are_refused_and_not_counted(account: Account) -> None:
    answer = benchmark(account, inputTokens=100_000)
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["details"]["reason"]) == (422, 1004, "tokens")
    assert "at most 128 tokens" in error["message"]
    listed = account.http.get("/v1/api/benchmark", headers=account.headers).json()["data"]
    assert listed["runs"] == []


@pytest.fixture
def announce(stack: Stack) -> Iterator[Callable[..., None]]:
    """Announce a worker on another machine during the test."""

    def announce(**machine: Any) -> None:
        async def say() -> None:
            async with bus.connect(stack.nats.url("worker"), "worker") as connection:
                await connection.call(ANNOUNCE, Announcement(worker="another", **machine))

        asyncio.run(say())

    yield announce
    # Otherwise runs that name no device would wait for this machine.
    with psycopg.connect(stack.postgres.url("benchmarker")) as database:
        database.execute("delete from benchmarker.workers where worker = 'another'")


def test_a_run_that_cannot_succeed_is_refused_before_it_is_queued_or_counted(
    account: Account, announce: Callable[..., None]
) -> None:
    gpu = {
        "name": "small GPU", "device_class": "gpu", "dtypes": ["float32"], "compiles": False,
        "attentions": ["eager", "sdpa"],
    }  # fmt: skip
    before = benchmark(account, device="cuda")
    assert error_of(before)["details"]["reason"] == "device"
    announce(memory=0.1, **gpu)
    refusals = [
        ({"batchSizes": [10**9]}, 400, 1003, "4096"),
        ({"modelId": "lilypad/absent"}, 404, 1001, "no such model"),
        ({"modelId": "lilypad/tiny-unknown-task"}, 422, 1002, "task"),
        ({"modelId": "lilypad/tiny-multiple-choice"}, 422, 1004, "text-generation"),
        ({"modelId": "lilypad/tiny-pickle"}, 422, 1002, "safetensors"),
        ({"modelId": "lilypad/too-big"}, 422, 1002, "81,559 that a provider offers"),
        ({"device": "tpu"}, 400, 1003, '"cuda"'),
        ({"device": "cuda", "dtype": "bfloat16"}, 422, 1004, "available: float32"),
        ({"device": "cuda", "dtype": "float32", "compile": True}, 422, 1004, "compiler"),
        ({"device": "cuda", "attention": "flash_attention_2"}, 422, 1004, "available: eager, sdpa"),
        ({"device": "cuda", "dtype": "float32"}, 422, 1004, "the largest worker has 0 MiB"),
    ]
    for body, status, code, words in refusals:
        answer = benchmark(account, **body)
        error = error_of(answer)
        assert (answer.status_code, error["code"]) == (status, code), (body, error)
        assert words in str(error), (body, error)
    assert get(account, "/v1/api/benchmark").json()["data"]["runs"] == []
    for _ in range(5):  # the whole hourly limit is left
        wait = {"Prefer": "respond-async"}
        answer = benchmark(account, headers=wait, device="cpu")
        assert answer.status_code == 202, answer.text
        where = answer.headers["location"]
        account.http.delete(where, headers=account.headers)
