"""Clients of the storm, which log their requests and answers."""

import asyncio
import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Self

import httpx2

from benchmarks.realtime_faults import MODEL as WATCHED
from benchmarks.realtime_faults import Follower
from common.contracts.timestamps import now_us, to_text
from integration.caller import Account

RECORD, MANY = "/v1/api/monitor/record", "/v2/api/monitor/record"
GENERATED = "lilypad/tiny-text-classification"
# A request that gets no answer; the edge's own timeouts are shorter.
TIMEOUT_S = 60.0
# Outcomes that a client may see while parts fail: success, a limit, or a request to try again.
EXPECTED = {200, 201, 202, 429, 502, 503, 504}
PROBE_INTERVAL_S = 0.25


@dataclass
class Log:
    """Record of the answers that all clients received.

    Attributes:
        sent: moments of records, in microseconds since 2000.
        acknowledged: those that were acknowledged.
        watched: numbers of acknowledged records of the model that sockets follow.
        generated: times between which each generation that succeeded was admitted.
        runs: ids of runs, by idempotency key; two ids would be two runs.
        keys: every idempotency key that was sent.
        answers: answers by status, 0 for a broken connection.
        wrong: answers that nobody should get.
        readiness: time, replica and status of each probe.
    """

    sent: set[int] = field(default_factory=set)
    acknowledged: set[int] = field(default_factory=set)
    watched: list[int] = field(default_factory=list)
    generated: list[tuple[float, float]] = field(default_factory=list)
    runs: dict[str, set[str]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    answers: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    readiness: list[tuple[float, str, int]] = field(default_factory=list)


class Clients:
    """Threads that send requests until stopped, and sockets that follow a model."""

    def __init__(self, url: str, replicas: dict[str, str], seed: int) -> None:
        self.log = Log()
        self.url = url
        self.recorder, self.follower = Account(url), Account(url)
        self.generator, self.runner = Account(url), Account(url)
        self.followers: list[Reconnecting] = []
        self._replicas = replicas
        self._random = random.Random(seed)
        self._moments = count(now_us() - 7_200 * 1_000_000)
        self._stopped = threading.Event()
        works: list[Callable[[], None]] = [
            lambda: self._record(many=False), lambda: self._record(many=False),
            lambda: self._record(many=True), self._record_watched, self._generate, self._run,
        ]  # fmt: skip
        works += [lambda name=name: self._probe(name) for name in replicas]  # type: ignore[misc]
        self._threads = [threading.Thread(target=work) for work in works]
        self._loop = asyncio.new_event_loop()
        self._looping = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        # From now on the model is the account's, so that sockets may follow it.
        with self._http() as http:
            while self._post(http, self.follower, RECORD, _watched(0)) != 200:
                time.sleep(0.5)
        self.log.watched.append(0)
        self._looping.start()
        asyncio.run_coroutine_threadsafe(self._follow(), self._loop).result()
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        asyncio.run_coroutine_threadsafe(self._leave(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._looping.join()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    async def _follow(self) -> None:
        for transports in (None, None, ["polling"]):
            follower = Reconnecting(self.follower.key)
            self.followers.append(follower)
            await follower.client.connect(
                self.url, auth={"token": follower.token}, transports=transports, retry=True
            )
            await follower.subscribed.wait()

    async def _leave(self) -> None:
        for follower in self.followers:
            await follower.close()

    def _http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=TIMEOUT_S)

    def _post(
        self, http: httpx2.Client, account: Account, path: str, body: Any, **headers: str
    ) -> int:
        return self._answer(http, account, path, body, **headers)[0]

    def _answer(
        self, http: httpx2.Client, account: Account, path: str, body: Any, **headers: str
    ) -> tuple[int, Any]:
        """Return the status and data of the answer; status 0 means no answer."""
        try:
            answer = http.post(path, json=body, headers={**account.headers, **headers})
        except httpx2.TransportError:
            self.log.answers[0] += 1
            return 0, None
        self.log.answers[answer.status_code] += 1
        try:
            envelope = answer.json()
            if answer.status_code not in EXPECTED or set(envelope) != {"data", "error", "meta"}:
                self.log.wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
        except ValueError:
            self.log.wrong.append(f"{path}: {answer.status_code} {answer.text[:200]}")
            return answer.status_code, None
        return answer.status_code, envelope["data"]

    def _record(self, *, many: bool) -> None:
        with self._http() as http:
            while not self._stopped.wait(0.1):
                moments = [next(self._moments) for _ in range(20 if many else 1)]
                records = [_record("m", moment, latency=1.0) for moment in moments]
                self.log.sent.update(moments)
                body = {"records": records} if many else records[0]
                path, headers = (MANY, {"X-Lilypad-Beta": "v2"}) if many else (RECORD, {})
                if self._post(http, self.recorder, path, body, **headers) == 200:
                    self.log.acknowledged.update(moments)

    def _record_watched(self) -> None:
        """Record consecutive numbers; retry each until it is acknowledged."""
        with self._http() as http:
            number = 1
            body = _watched(number)
            while not self._stopped.wait(0.2):
                if self._post(http, self.follower, RECORD, body) == 200:
                    self.log.watched.append(number)
                    number += 1
                    body = _watched(number)

    def _generate(self) -> None:
        with self._http() as http:
            while not self._stopped.wait(0.4):
                begun = time.monotonic()
                body = {"modelUrl": GENERATED}
                if self._post(http, self.generator, "/v1/api/generate", body) == 200:
                    self.log.generated.append((begun, time.monotonic()))

    def _run(self) -> None:
        """Start runs; retry each with its idempotency key until accepted, and repeat some."""
        body = {"modelId": GENERATED, "batchSizes": [1, 2], "iterations": 20, "seed": 1}
        with self._http() as http:
            while not self._stopped.wait(2.0):
                key = secrets.token_hex(8)
                self.log.keys.add(key)
                status, again = 0, self._random.random() < 0.3
                while status != 202 or again:
                    again = again and status != 202
                    status, data = self._answer(
                        http, self.runner, "/v1/api/benchmark", body,
                        **{"Idempotency-Key": key, "Prefer": "respond-async"},
                    )  # fmt: skip
                    if status in (200, 202):
                        self.log.runs.setdefault(key, set()).add(data["id"])
                        status = 202
                    elif self._stopped.wait(0.3):
                        return

    def _probe(self, name: str) -> None:
        with httpx2.Client(timeout=2) as http:
            while not self._stopped.wait(PROBE_INTERVAL_S):
                try:
                    status = http.get(f"{self._replicas[name]}/readyz").status_code
                except httpx2.TransportError:
                    status = 0
                self.log.readiness.append((time.monotonic(), name, status))


class Reconnecting(Follower):
    """A follower that logs the times at which it was disconnected."""

    def __init__(self, token: str) -> None:
        super().__init__(token)
        self.subscribed = asyncio.Event()
        self.away: list[tuple[float, float]] = []
        self._left: float | None = None

    async def _answered(self, answer: dict[str, Any]) -> None:
        await super()._answered(answer)
        if answer["status"] == "success":
            self.subscribed.set()
            if self._left is not None:
                self.away.append((self._left, time.monotonic()))
                self._left = None

    async def _end(self, reason: str) -> None:
        await super()._end(reason)
        self._left = self._left or time.monotonic()


def _record(model: str, moment_us: int, **metrics: float) -> dict[str, Any]:
    return {"modelId": model, "timestamp": to_text(moment_us), "metrics": metrics}


def _watched(number: int) -> dict[str, Any]:
    """Return record `number` of the followed model; a retry sends this same record."""
    return _record(WATCHED, now_us(), **{f"n{number}": 1.0})
