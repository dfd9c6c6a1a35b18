"""Two replicas behind Envoy on a real bus, with stand-ins for the other services."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import socketio

from common import bus
from common.bus import NatsBus
from common.context import current
from common.contracts.access import (
    AUTHENTICATE,
    KEY_REVOKED,
    Access,
    Credentials,
    KeyRevoked,
)
from common.contracts.alerts import (
    ALERT_RAISED,
    LIST_ALERTS,
    Alert,
    AlertEvent,
    Alerts,
    AlertsRequest,
)
from common.contracts.benchmarking import PROGRESSED, BenchmarkProgress
from common.contracts.history import (
    HISTORY,
    METRICS_RECORDED,
    RECALL,
    History,
    HistoryRequest,
    MetricUpdate,
    Moments,
    Position,
    Recalled,
    RecallRequest,
)
from common.contracts.timestamps import parse_time, to_us
from common.errors import NotFound, Unauthenticated, Unavailable
from common.service import Service as Answers
from local.services import Service
from local.stack import Stack

REALTIME = (Service("realtime", replicas=2, http=True),)


@pytest.fixture(scope="package")
def stack() -> Iterator[Stack]:
    with Stack(servers={"nats", "envoy"}, services=REALTIME) as running:
        yield running


@pytest.fixture
def own_stack() -> Iterator[Stack]:
    """A separate stack for a test that breaks it."""
    with Stack(servers={"nats", "envoy"}, services=REALTIME) as running:
        yield running


@dataclass
class Others:
    """Stand-ins for the other services, with API keys of the form `<account>/<key id>`."""

    gateway: NatsBus
    metrics: NatsBus
    benchmarker: NatsBus
    revoked: set[str] = field(default_factory=set)
    recorded: dict[tuple[str, str], list[MetricUpdate]] = field(default_factory=dict)
    alerts: list[tuple[str, Alert]] = field(default_factory=list)
    last: int = 0
    away: bool = False
    recalls: int | None = None  # recalls left before it is unavailable; None: unlimited

    async def authenticate(self, credentials: Credentials) -> Access:
        account, _, key = credentials.token.partition("/")
        if not key or key in self.revoked:
            raise Unauthenticated("the API key is unknown, expired or revoked")
        scopes = [] if key.startswith("none") else ["monitor:read"]
        return Access(account=account, key=key, scopes=scopes)

    async def history(self, request: HistoryRequest) -> History:
        """Answer like a metrics service with a single writer."""
        if self.away:
            raise Unavailable("the database is busy or away", retry_after=1)
        everything = self.recorded.get((current.get().account, request.model_id))
        if everything is None:
            raise NotFound("no metrics have been recorded for this model")
        position = request.position
        if position is None:
            assert request.since
            moment = to_us(request.since)
            seen = [u.arrival for u in everything if parse_time(u.timestamp) == request.since]
            position = Position(floor=min(seen, default=moment * 256), alerted=moment, places=[])
        after = max([position.floor, *(arrival for arrival, _ in position.places)])
        arrivals = [
            (update.arrival, to_us(parse_time(update.timestamp)))
            for update in everything
            if update.arrival > after
            and (request.metrics is None or set(request.metrics) & set(update.metrics))
        ]
        complete = len(arrivals) <= request.limit
        return History(
            moments=Moments.pack(sorted(arrivals)[-request.limit :]),
            complete=complete,
            position=position,
        )

    async def recall(self, request: RecallRequest) -> Recalled:
        if self.recalls is not None:
            self.recalls -= 1
            if self.recalls < 0:
                raise Unavailable("the database is busy or away", retry_after=1)
        everything = self.recorded[current.get().account, request.model_id]
        requested = {arrival for arrival, _ in request.moments.unpack()}
        updates = [update for update in everything if update.arrival in requested]
        if request.metrics is not None:
            updates = [
                u.model_copy(
                    update={"metrics": {k: v for k, v in u.metrics.items() if k in request.metrics}}
                )
                for u in updates
            ]
        return Recalled(updates=updates, count=len(requested))

    async def list_alerts(self, request: AlertsRequest) -> Alerts:
        of_account = [a for who, a in self.alerts if who == current.get().account]
        return Alerts(alerts=[a for a in of_account if a.model_id == request.model_id][::-1])

    async def record(
        self, account: str, model: str, *, tell: bool = True, ago: float = 0, **metrics: float
    ) -> str:
        """Commit, then publish, as the metrics service does; return the timestamp."""
        now = datetime.now(UTC)
        self.last = max(to_us(now), self.last + 1)
        now = (now - timedelta(seconds=ago)).isoformat()
        update = MetricUpdate(
            model_id=model, timestamp=now, metrics=metrics, arrival=self.last * 256 + 1
        )
        self.recorded.setdefault((account, model), []).append(update)
        if tell:
            await self.metrics.publish(METRICS_RECORDED, update, account, model)
        return now

    async def publish_update(self, account: str, model: str, number: int) -> None:
        """Publish an update that was committed earlier."""
        update = self.recorded[account, model][number]
        await self.metrics.publish(METRICS_RECORDED, update, account, model)

    async def alert(self, account: str, model: str, type: str, *, tell: bool = True) -> None:
        number = f"alert_{len(self.alerts)}"
        row = Alert(
            id=number, rule_id="latency", model_id=model, type=type, message="!",
            severity="warning", metric=None, raised_at=datetime.now(UTC), recovered_at=None,
        )  # fmt: skip
        self.alerts.append((account, row))
        if tell:
            await self.publish_alert(account)

    async def publish_alert(self, account: str) -> None:
        """Publish the account's latest alert, also repeatedly."""
        alert = next(alert for who, alert in reversed(self.alerts) if who == account)
        news = AlertEvent.model_validate({**alert.model_dump(), "at": alert.raised_at})
        await self.metrics.publish(ALERT_RAISED, news, account, alert.model_id)

    async def progress(self, account: str, run: str, done: int) -> None:
        body = BenchmarkProgress(id=run, model_id="m", state="running", done=done, total=9)
        await self.benchmarker.publish(PROGRESSED, body, account, run)

    async def revoke(self, account: str, key: str) -> None:
        """Publish a revocation of a key that the stand-in gateway still accepts."""
        body = KeyRevoked(account=account, key=key)
        await self.gateway.publish(KEY_REVOKED, body, account, key)


async def connect_others(stack: Stack, stays: AsyncExitStack) -> Others:
    buses = [
        await stays.enter_async_context(bus.connect(stack.nats.url(name), name))
        for name in ("gateway", "metrics", "benchmarker")
    ]
    others = Others(*buses)
    gateway, metrics = Answers("gateway", buses[0]), Answers("metrics", buses[1])
    await gateway.answer(AUTHENTICATE, others.authenticate)
    await metrics.answer(HISTORY, others.history)
    await metrics.answer(RECALL, others.recall)
    await metrics.answer(LIST_ALERTS, others.list_alerts)
    return others


@pytest.fixture(scope="package")
def join_others() -> Callable[[Stack, AsyncExitStack], Awaitable[Others]]:
    return connect_others


@pytest.fixture(scope="package")
async def others(stack: Stack) -> AsyncIterator[Others]:
    async with AsyncExitStack() as stays:
        yield await connect_others(stack, stays)


async def _read_refusal(
    _session: aiohttp.ClientSession, _context: object, request: aiohttp.TraceRequestEndParams
) -> None:
    if request.response.status >= 400:
        await request.response.read()


# python-engineio drops a refused answer unread, which leaves its connection open.
_READ_REFUSALS = aiohttp.TraceConfig()
_READ_REFUSALS.on_request_end.append(_read_refusal)


class Watcher:
    """A real Socket.IO client that records every event.

    The edge chooses a replica by the id of the `request` that opens the connection; None: any.
    """

    def __init__(self, url: str, token: str, *, request: str | None = None, **options: Any) -> None:
        self.url = url
        self.token = token
        self.options = options
        self.received: list[tuple[str, Any]] = []
        self.refused: Any = None
        self.disconnected = asyncio.Event()
        self.changed = asyncio.Condition()
        # python-engineio closes its own session in a task that nobody awaits.
        headers = {"X-Request-Id": request} if request else {}
        self.http = aiohttp.ClientSession(headers=headers, trace_configs=[_READ_REFUSALS])
        self.client = socketio.AsyncClient(
            reconnection=options.pop("reconnection", False), http_session=self.http
        )
        self.client.on("*", self._receive)
        self.client.on("connect_error", self._refuse)
        self.client.on("disconnect", self._end)

    async def _receive(self, event: str, data: Any = None) -> None:
        self.received.append((event, data))
        async with self.changed:
            self.changed.notify_all()

    async def _refuse(self, data: Any) -> None:
        self.refused = data

    async def _end(self, _reason: str) -> None:
        self.disconnected.set()

    async def connect(self) -> "Watcher":
        await self.client.connect(self.url, auth={"token": self.token}, **self.options)
        return self

    async def close(self) -> None:
        await self.client.shutdown()
        await self.http.close()

    async def call(self, event: str, data: Any = None) -> Any:
        return await self.client.call(event, data, timeout=20)

    async def subscribe(self, model: str, *, once: bool = False, **more: Any) -> Any:
        """Subscribe to a model; unless `once`, retry while the replay is unavailable.

        On a busy machine the stand-ins, which run in this process, may answer too late.
        """
        before = len(self.received)
        async with asyncio.timeout(60):
            while True:
                answer = await self.call("subscribe_metrics", {"modelId": model, **more})
                if once or answer.get("code") != 5003:
                    return answer
                # The next replay repeats the part that this one delivered.
                since = self.received[before:]
                self.received[before:] = [e for e in since if e[0] != "metric_update"]

    def of(self, event: str) -> list[Any]:
        return [data for name, data in self.received if name == event]

    async def wait_for(self, event: str, count: int = 1) -> list[Any]:
        await self.wait_until(lambda: len(self.of(event)) >= count)
        return self.of(event)

    async def wait_until(self, true: Callable[[], bool]) -> None:
        """Wait for a condition, checked after every event."""
        async with asyncio.timeout(60), self.changed:
            await self.changed.wait_for(true)


@pytest.fixture
async def new_watcher(stack: Stack) -> AsyncIterator[Callable[..., Watcher]]:
    """Return a function that makes an unconnected client."""
    watchers: list[Watcher] = []

    def make(token: str, url: str = stack.url, **options: Any) -> Watcher:
        watchers.append(Watcher(url, token, **options))
        return watchers[-1]

    yield make
    for watcher in watchers:
        await watcher.close()


async def counts(stack: Stack, what: str) -> list[int]:
    """Return a count of each replica, such as its clients or decoded events."""
    async with aiohttp.ClientSession() as http:
        answers = [
            await http.get(f"http://{host}:{port}/readyz")
            for host, port in stack.addresses["realtime"]
        ]
        return [(await answer.json())["data"][what] for answer in answers]


async def requests_to_both(stack: Stack, new_watcher: Callable[..., Watcher]) -> list[str]:
    """Return two request ids that the edge sends to different replicas."""
    requests: dict[tuple[bool, ...], str] = {}
    for number in range(40):
        request = f"request_{number}"
        before = await counts(stack, "clients")
        watcher = await new_watcher("both/key", stack.url, request=request).connect()
        after = await counts(stack, "clients")
        await watcher.close()
        async with asyncio.timeout(60):
            while await counts(stack, "clients") != before:
                await asyncio.sleep(0.02)
        requests.setdefault(tuple(a > b for a, b in zip(after, before, strict=True)), request)
        if len(requests) == 2:
            return list(requests.values())
    raise AssertionError("every request gets the same replica")


@pytest.fixture
async def requests(stack: Stack, others: Others, new_watcher: Callable[..., Watcher]) -> list[str]:
    return await requests_to_both(stack, new_watcher)


@pytest.fixture
async def watch(others: Others, new_watcher: Callable[..., Watcher]) -> Any:
    async def connect(token: str, *address: str, **options: Any) -> Watcher:
        return await new_watcher(token, *address, **options).connect()

    return connect
