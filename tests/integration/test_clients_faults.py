"""Both clients behind a faulty proxy: retries without a second record or run."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.caller import Account
from integration.faulty import FaultyProxy
from integration.load import wait_until
from integration.pages import NODE, World
from local.stack import Stack

MODEL = "lilypad/tiny-text-classification"
# Each program reads calls, one a line, and prints their outcomes: `done`, or the name of the error.
PROGRAMS = {
    "python": """
import sys
from lilypad_client import LilypadClient, LilypadError

MODEL = "lilypad/tiny-text-classification"
for line in sys.stdin:
    call, timeout = line.split()
    client = LilypadClient(timeout=float(timeout))
    try:
        if call == "record":
            client.metrics.record(MODEL, {"latency": 8.0})
        else:
            client.benchmarks.start(MODEL, batch_sizes=[1], iterations=1)
        print("done", flush=True)
    except LilypadError as error:
        print(type(error).__name__, flush=True)
""",
    "javascript": """
import { createInterface } from 'node:readline';
import { LilypadClient } from 'lilypad-client';

const modelId = 'lilypad/tiny-text-classification';
for await (const line of createInterface({ input: process.stdin })) {
  const [call, timeout] = line.split(' ');
  const client = new LilypadClient({ timeoutMs: Number(timeout) * 1000 });
  try {
    if (call === 'record') await client.metrics.record({ modelId, metrics: { latency: 8 } });
    else await client.benchmarks.start({ modelId, batchSizes: [1], iterations: 1 });
    console.log('done');
  } catch (error) {
    console.log(error.name);
  }
}
""",
}
# Faults of successive requests, the total number of requests, and the outcome.
CASES = [
    (["429"], 2, "done"),
    (["429 after 1 s"], 2, "done"),
    (["429 after 600 s"], 1, "RateLimitError"),
    (["429 after a date in the past"], 2, "done"),
    (["503", "503"], 3, "done"),
    (["503", "503", "503"], 3, "UnavailableError"),
    (["reset before"], 2, "done"),
    (["reset after"], 2, "done"),
    (["half", "reset after"], 3, "done"),
]


class Caller:
    """A program of one language that makes the calls it receives on standard input."""

    def __init__(self, language: str, world: World) -> None:
        script = world.folder / f"calls.{'py' if language == 'python' else 'mjs'}"
        script.write_text(PROGRAMS[language])
        world.provide(PROGRAMS[language])
        self.process = subprocess.Popen(
            [sys.executable if language == "python" else NODE, str(script)],
            env=world.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, name: str, timeout: float = 60) -> str:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{name} {timeout}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        with self.process as process:
            process.terminate()


@pytest.fixture
def proxy(stack: Stack) -> Iterator[FaultyProxy]:
    with FaultyProxy(stack.url) as running:
        yield running


@pytest.fixture(params=PROGRAMS)
def caller(
    request: pytest.FixtureRequest, proxy: FaultyProxy, account: Account, tmp_path: Path
) -> Iterator[Caller]:
    started = Caller(request.param, World(proxy.url, account, tmp_path))
    yield started
    started.end()


@pytest.mark.timeout(900)
def test_retries_over_a_failing_network_create_no_second_record(
    proxy: FaultyProxy, caller: Caller, account: Account
) -> None:
    stored = 0
    for faults, requests, outcome in CASES:
        proxy.faults, proxy.keys = list(faults), []
        assert caller.call("record") == outcome, faults
        assert len(proxy.keys) == requests, faults
        assert len(set(proxy.keys)) == 1, faults
        stored += outcome == "done"
    assert _count(account) == stored


@pytest.mark.timeout(900)
def test_an_answer_slower_than_the_deadline_is_an_error(
    proxy: FaultyProxy, caller: Caller, account: Account
) -> None:
    proxy.faults = ["slow"]
    assert caller.call("record", timeout=4) in {"APITimeoutError", "TimeoutError"}
    # On a busy machine the client gives up while the proxy still waits for the service.
    wait_until(lambda: 0 < len(proxy.keys) == proxy.answered)
    assert len(proxy.keys) == 1
    assert _count(account) == 1


@pytest.mark.timeout(900)
def test_retries_over_a_failing_network_start_no_second_run(
    proxy: FaultyProxy, caller: Caller, account: Account
) -> None:
    proxy.faults = ["reset after", "half"]
    assert caller.call("start") == "done"
    assert len(proxy.keys) == 3
    assert len(set(proxy.keys)) == 1
    runs = account.http.get("/v1/api/benchmark", headers=account.headers).json()["data"]["runs"]
    assert len(runs) == 1
    account.http.delete(f"/v1/api/benchmark/{runs[0]['id']}", headers=account.headers)


def _count(account: Account) -> int:
    answer = account.post("/v1/api/monitor", {"modelId": MODEL, "days": 1})
    latency = answer.json()["data"]["statistics"].get("latency") if answer.is_success else None
    return latency["count"] if latency else 0
