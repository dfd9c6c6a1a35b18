"""Live updates through everything: HTTP, database, bus, two replicas, Envoy, real clients."""

import asyncio
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest
import socketio
from socketio.exceptions import ConnectionError as Refused

from integration.caller import PASSWORD, Account
from local.stack import Stack

JAVASCRIPT = Path(__file__).parent / "javascript"
# What set-up goes by when it installs the client in JavaScript.
NODE = shutil.which("node") if shutil.which("npm") else None
MODEL = "owner/watched"
PATIENCE = 60


@pytest.fixture
def account(stack: Stack) -> Iterator[Account]:
    made = Account(stack.url)
    record(made, warm_up=1)  # from now on the model is the account's
    yield made
    made.http.close()


def record(account: Account, **metrics: float) -> None:
    answer = account.post("/v1/api/monitor/record", {"modelId": MODEL, "metrics": metrics})
    assert answer.status_code == 200, answer.text


class Script:
    """A JavaScript client in a process of its own."""

    def __init__(self, name: str, *arguments: str) -> None:
        assert NODE
        command = [NODE, str(JAVASCRIPT / name), *arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.heard: list[tuple[str, Any]] = []
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)

    def wait_for(self, *events: str, count: int = 1) -> list[Any]:
        """The data of such events, when so many have come."""
        while len(found := [data for event, data in self.heard if event in events]) < count:
            self.hear(PATIENCE)
        return found

    def hear(self, seconds: float) -> None:
        """The next line; raises `queue.Empty` if there is none in time."""
        line = json.loads(self._lines.get(timeout=seconds))
        self.heard.append((line["event"], line.get("data")))

    def numbers(self) -> list[int]:
        updates = [data for event, data in self.heard if event == "metric_update"]
        return [int(name[1:]) for update in updates for name in update["metrics"]]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout
        self.process.stdout.close()


@pytest.fixture
def run_script() -> Iterator[Callable[..., Script]]:
    made: list[Script] = []

    def run(*arguments: str) -> Script:
        made.append(Script(*arguments))
        return made[-1]

    yield run
    for script in made:
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
            await self.client.connect(self.url, auth={"token": self.token}, wait_timeout=PATIENCE)
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
        wish = {"modelId": model}
        return await self.client.call("subscribe_metrics", wish, timeout=PATIENCE)


async def test_a_revoked_key_closes_its_sockets(stack: Stack, account: Account) -> None:
    key = account.make_key("short-lived")
    async with Client(stack.url, key["key"]) as client, Client(stack.url, account.key) as stays:
        password = (account.email, PASSWORD)
        answer = account.http.delete(f"/v1/api/keys/{key['id']}", auth=password)
        assert answer.status_code < 300, answer.text
        await asyncio.wait_for(client.ended.wait(), PATIENCE)
        assert client.errors.get_nowait()["code"] == 2001
        assert await stays.subscribe(MODEL) == {"status": "success"}
    with pytest.raises(Refused):
        await Client(stack.url, key["key"]).__aenter__()


async def test_a_page_connects_with_its_short_lived_token(stack: Stack, account: Account) -> None:
    made = account.http.post("/v1/api/socket-tokens", auth=(account.email, PASSWORD))
    assert made.status_code == 201, made.text
    token = made.json()["data"]["token"]
    assert account.http.get("/v1/api/alerts", headers={"Authorization": f"Bearer {token}"}).is_error
    async with Client(stack.url, token) as client:
        assert await client.subscribe(MODEL) == {"status": "success"}


async def test_nobody_hears_that_anothers_model_exists(stack: Stack, account: Account) -> None:
    stranger = Account(stack.url)
    async with Client(stack.url, stranger.key) as client:
        refusal = await client.subscribe(MODEL)
        assert refusal == await client.subscribe("owner/there-is-none")
        assert refusal["code"] == 3001
    stranger.http.close()


if NODE:

    def test_the_references_snippet_works_as_pasted(stack, account, run_script) -> None:
        script = run_script("seed.mjs", stack.url, account.key, MODEL)
        assert script.wait_for("connect", "upgrade", count=2)  # polling, then WebSocket
        seed = {"throughput": 120.5, "latency": 8.25, "memory_usage": 512.0}
        while not [event for event, _ in script.heard if event == "metric_update"]:
            # It asks for no acknowledgement, so when it is subscribed only shows in this.
            record(account, **seed, other=1)
            with contextlib.suppress(queue.Empty):
                script.hear(0.5)
        [update, *_] = script.wait_for("metric_update")
        assert set(update) == {"modelId", "timestamp", "metrics"}
        assert (update["modelId"], update["metrics"]) == (MODEL, seed)

    def test_a_refused_javascript_client_knows_why(stack, run_script) -> None:
        script = run_script("seed.mjs", stack.url, "lmg_live_nonsense", MODEL)
        [reason] = script.wait_for("connect_error")
        assert reason["code"] == 2001
        assert reason["message"]

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
    def test_javascript_clients_come_back_and_miss_nothing(
        stack, account, run_script, number
    ) -> None:
        kinds = ("polling,websocket", "websocket", "polling")
        scripts = [run_script("follow.mjs", stack.url, account.key, MODEL, kind) for kind in kinds]
        for script in scripts:
            assert script.wait_for("answer")[0]["status"] == "success"
        for count, name in enumerate(("realtime-1", "realtime-2"), 1):
            os.kill(stack.processes[name].pid, number)
            for step in range(10):
                record(account, **{f"n{count * 10 + step}": 1})
            for script in scripts:
                script.wait_for("metric_update", count=count * 10)
            stack.wait_until_ready()
        for script in scripts:
            assert script.numbers() == list(range(10, 30))
