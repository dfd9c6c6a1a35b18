"""Warm generation through the whole stack: edge, gateway, bus, generator and back."""

import statistics
import threading
import time
from collections.abc import Callable

import httpx2

from benchmarks.report import Report, figure
from hub.testing import RunningHub
from integration.caller import Account
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
LIMITS = {"RATE_API": "100000000", "RATE_GENERATE": "100000000"}
CALLS = 300
SECONDS = 5.0
CALLERS = 8


def measure() -> Report:
    report = Report("Warm /generate through the edge (2 gateways, 2 generators)")
    with (
        RunningHub() as hub,
        Stack(environment={"HF_ENDPOINT": hub.url, **LIMITS}, flood_limit=1_000_000) as stack,
    ):
        account = Account(stack.url)
        for _ in range(20):  # both generators have read the model
            account.generate(MODEL)
        floor = _median(lambda: account.http.get("/healthz"))
        alone = _median(lambda: account.generate(MODEL))
        together = _rate(stack.url, account)
        account.http.close()
    report.add(
        figure(
            "median, one client",
            alone * 1e3,
            "ms",
            at_most=15,
            against=("GET /healthz", floor * 1e3),
        )
    )
    report.add(figure(f"{CALLERS} clients", together, "requests/s", at_least=100))
    return report


def _median(call: Callable[[], httpx2.Response]) -> float:
    seconds = []
    for _ in range(CALLS):
        start = time.perf_counter()
        answer = call()
        seconds.append(time.perf_counter() - start)
        assert answer.status_code == 200, answer.text
    return statistics.median(seconds)


def _rate(url: str, account: Account) -> float:
    done = [0] * CALLERS
    end = time.perf_counter() + SECONDS

    def call_on(number: int) -> None:
        with httpx2.Client(base_url=url, timeout=60, headers=account.headers) as http:
            while time.perf_counter() < end:
                answer = http.post("/v1/api/generate", json={"modelUrl": MODEL})
                assert answer.status_code == 200, answer.text
                done[number] += 1

    threads = [threading.Thread(target=call_on, args=[number]) for number in range(CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(done) / SECONDS
