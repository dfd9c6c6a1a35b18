"""The system while a part is unavailable, with the real part."""

import os
import secrets
import signal
import threading
from collections.abc import Iterator

import httpx2
import psutil
import pytest

from hub.testing import RunningHub
from integration.caller import Account, error_of
from integration.load import Load, wait_until
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"


@pytest.fixture
def account(generous_stack: Stack) -> Iterator[Account]:
    account = Account(generous_stack.url)
    yield account
    account.http.close()


@pytest.fixture
def stack(generous_stack: Stack) -> Stack:
    # The test before may have ended while a replica was connecting again.
    generous_stack.wait_until_ready()
    return generous_stack


def test_a_hanging_bus_gives_a_503_at_once_on_each_replica_until_it_resumes(
    stack: Stack, account: Account
) -> None:
    assert account.generate(MODEL).status_code == 200
    bus = stack.processes["nats"].pid
    os.kill(bus, signal.SIGSTOP)  # neither answers nor closes
    os.waitid(os.P_PID, bus, os.WSTOPPED | os.WNOWAIT)  # until each of its threads has stopped
    try:
        for method, path in [("POST", "/v1/api/generate"), ("GET", "/v1/api/benchmark")]:
            body = {"modelUrl": MODEL} if method == "POST" else None
            for _ in range(4):  # to both gateways
                answer = account.http.request(method, path, headers=account.headers, json=body)
                assert (answer.status_code, error_of(answer)["code"]) == (503, 5003)
                assert int(answer.headers["retry-after"]) >= 1
                # The refusal did not wait for a timeout.
                assert "within" not in error_of(answer)["message"]
        gateways = [f"http://{host}:{port}" for host, port in stack.addresses["gateway"]]
        assert {httpx2.get(f"{g}/readyz").status_code for g in gateways} == {503}
    finally:
        os.kill(bus, signal.SIGCONT)
    wait_until(lambda: account.generate(MODEL).status_code == 200)


def test_during_a_bus_outage_health_is_green_readiness_is_not_and_callers_get_an_error(
    stack: Stack, account: Account
) -> None:
    stack.stop("nats")
    try:
        answer = account.generate(MODEL)
        assert (answer.status_code, error_of(answer)["code"]) == (503, 5003)
        assert answer.headers["retry-after"]
        assert account.http.get("/healthz").status_code == 200
        assert account.http.get("/readyz").status_code == 503
    finally:
        stack.processes["nats"].start()
    wait_until(lambda: account.generate(MODEL).status_code == 200)
    wait_until(lambda: account.http.get("/readyz").status_code == 200)


def test_a_killed_generator_fails_only_the_requests_in_progress(
    stack: Stack, account: Account
) -> None:
    with Load(account, stack.url) as load:
        load.wait_for(20)
        victim = stack.processes["generator-1"]
        before, killed = len(load.other), victim.pid
        os.kill(killed, signal.SIGKILL)
        load.wait_for(20)
        wait_until(lambda: victim.running and victim.pid != killed)
        stack.wait_until_ready("generator-1")
        load.wait_for(20)
    # Each of the 4 callers had at most one request there.
    assert len(load.other) <= before + 4, load.other
    assert set(load.answers) <= {"200", "503"}, load.answers
    assert all('"code":5003' in text for text in load.other)


@pytest.mark.parametrize("name", ["generator-1", "gateway-1"])
def test_a_process_stopped_and_restarted_under_load_fails_no_request(
    stack: Stack, account: Account, name: str
) -> None:
    with Load(account, stack.url) as load:
        load.wait_for(20)
        stack.stop(name)
        load.wait_for(20)
        stack.processes[name].start()
        stack.wait_until_ready(name)
        load.wait_for(20)
    assert set(load.answers) == {"200"}, (load.answers, load.other[:3])


# Lasting faults come first: after a refusal for too many requests, the Hub is not asked at all.
FAULTS: dict[str, dict[str, object]] = {
    "a hang": {"mode": "hang"},
    "a trickle": {"mode": "slow"},
    "a trickle after the headers": {"mode": "slow", "part": "body"},
    "an error": {"mode": "status", "status": 500},
    "too many requests": {"mode": "status", "status": 429},
    "a redirect elsewhere": {"mode": "redirect", "to": "http://127.0.0.2:1/{path}"},
    "HTML in place of JSON": {"mode": "nonsense", "kind": "html"},
    "wrong types": {"mode": "nonsense", "kind": "types"},
    "200 MB": {"mode": "huge"},
    "200 MB of unknown length": {"mode": "huge", "length": False},
    "half an answer": {"mode": "truncated"},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_misbehaving_hub_is_reported_clearly_and_in_time_and_harms_no_other_caller(
    stack: Stack, account: Account, hub: RunningHub, fault: dict[str, object]
) -> None:
    assert account.generate(MODEL).status_code == 200  # read before: answered from memory
    generators = [stack.processes[f"generator-{n}"].pid for n in (1, 2)]
    before = sum(psutil.Process(pid).memory_info().rss for pid in generators)
    answers: list[httpx2.Response] = []

    def generate() -> None:
        with httpx2.Client(base_url=stack.url, timeout=60) as http:
            # A revision not requested before, so it must be read from the Hub.
            body = {"modelUrl": "lilypad/tiny-text-generation", "revision": secrets.token_hex(20)}
            answers.append(http.post("/v1/api/generate", json=body, headers=account.headers))

    others = 0
    with hub.faults(path="tiny-text-generation", **fault):
        asking = threading.Thread(target=generate)
        asking.start()
        while asking.is_alive():
            assert account.generate(MODEL).status_code == 200
            others += 1
            asking.join(0.2)
        asking.join()
    assert others > 1 or fault["mode"] not in ("hang", "slow")  # answered while one waits
    [answer] = answers
    assert answer.status_code in (502, 503), answer.text
    error = error_of(answer)
    # After at most 15 s; a generator that took 18 s would be 5003, the gateway's own answer.
    assert error["code"] == 1002
    assert "Hub" in error["message"]
    after = sum(psutil.Process(pid).memory_info().rss for pid in generators)
    assert after - before < 100 * 2**20


def test_an_unavailable_hub_is_reported_and_models_read_before_still_work(
    stack: Stack, account: Account, hub: RunningHub
) -> None:
    assert account.generate(MODEL).status_code == 200
    hub.stop()
    try:
        answer = account.generate("lilypad/tiny-sentence-similarity")
        assert (answer.status_code, error_of(answer)["code"]) == (503, 1002)
        assert int(answer.headers["retry-after"]) >= 1
        assert account.generate(MODEL).status_code == 200
        # Also by generators started meanwhile, which have read nothing themselves.
        for name in ("generator-1", "generator-2"):
            stack.restart(name)
        stack.wait_until_ready("generator-1", "generator-2")
        module = account.generate(MODEL).json()["data"]
        assert "is unavailable" in module["validation"]["errors"][0]
    finally:
        hub.start()

    def answers_again() -> bool:
        return account.generate("lilypad/tiny-image-classification").status_code == 200

    wait_until(answers_again)
