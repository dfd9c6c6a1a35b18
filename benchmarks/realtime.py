"""Live updates: throughput, delay from record to client, and python-socketio with Redis."""

import asyncio
import json
import multiprocessing
import socket
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from functools import partial

import psutil
import socketio
import uvicorn
import uvloop

from benchmarks.monitoring import Connection
from benchmarks.processes import require
from benchmarks.report import Report, figure
from common import bus
from common.background import Background
from common.contracts.access import AUTHENTICATE, Access, Credentials
from common.contracts.history import METRICS_RECORDED, MetricUpdate
from common.service import Service as Answers
from integration.caller import Account
from local import ports
from local.services import Service
from local.stack import Stack

Address = tuple[str, int]
Publish = Callable[[int], Coroutine[object, object, None]]

CLIENTS = 1_000
# An account may have ten sockets; each account has one model here.
PER_MODEL = 10
MODELS = CLIENTS // PER_MODEL
WARM_UP, SECONDS = 2.0, 8.0
ROUNDS = 3
UPDATES_A_SECOND = 200
# The value with the shortest tail latency for the peer, of 1, 8, 32 and all.
REDIS_AT_ONCE = 8
METRICS = {"throughput": 120.53, "latency": 8.27, "memory_usage": 1433.25}
WHOLE = (
    Service("gateway", replicas=2, database=True, http=True),
    Service("metrics", replicas=2, database=True),
    Service("realtime", replicas=2, http=True),
)


def measure() -> Report:
    require("redis-server")
    report = Report(
        f"Live updates: {CLIENTS:,} WebSocket clients, {MODELS} models, ~200 B an event"
    )
    _one_process(report)
    _record_to_screen(report)
    _beside_redis(report)
    report.notes.append(
        "each model's next event is published when its ten clients have the last one; clients,"
        " publisher, bus and servers share this machine's cores"
    )
    return report


class Client(asyncio.Protocol):
    """A WebSocket that speaks just enough Socket.IO, at a fraction of a real client's cost."""

    def __init__(self, token: str, model: str, hear: Callable[[bytes], None]) -> None:
        self.token, self.model, self.hear = token, model, hear
        self.ready = asyncio.get_running_loop().create_future()
        self.buffer = b""
        self.upgraded = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(  # type: ignore[attr-defined]
            b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nHost: bench\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Ng==\r\n\r\n"
        )

    def send(self, text: str) -> None:
        size = len(text)
        head = bytes((0x81, 0x80 | size)) if size < 126 else b"\x81\xfe" + size.to_bytes(2, "big")
        self.transport.write(head + b"\0\0\0\0" + text.encode())  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        data = self.buffer + data
        start = 0
        if not self.upgraded:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self.buffer = data
                return
            self.upgraded, start = True, end + 4
        while len(data) >= start + 2:
            size, head = data[start + 1], 2
            if size == 126:
                if len(data) < start + 4:
                    break
                size, head = int.from_bytes(data[start + 2 : start + 4], "big"), 4
            end = start + head + size
            if end > len(data):
                break
            self.take(data[start + head : end])
            start = end
        self.buffer = data[start:]

    def take(self, packet: bytes) -> None:
        if packet.startswith(b'42["metric_update"'):
            self.hear(packet)
        elif packet == b"2":
            self.send("3")
        elif packet.startswith(b"0{"):
            self.send("40" + json.dumps({"token": self.token}))
        elif packet.startswith(b"40"):
            self.send("420" + json.dumps(["subscribe_metrics", {"modelId": self.model}]))
        elif packet.startswith(b"430"):
            self.ready.set_result(packet)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ready.done():
            self.ready.set_exception(error or ConnectionError("refused"))


class Load:
    """All clients and the publisher, with one event in flight per model at any time."""

    def __init__(self, publish: Publish) -> None:
        self.publish = publish
        self.sent = [0.0] * MODELS
        self.missing = [0] * MODELS
        self.latencies: list[float] = []
        self.running = True
        self.publishing = Background()

    async def connect(self, addresses: Sequence[Address]) -> None:
        """Spread each model's clients over all servers."""
        loop = asyncio.get_running_loop()
        for start in range(0, CLIENTS, 50):
            clients = []
            for n in range(start, start + 50):
                model, address = n // PER_MODEL, addresses[n % len(addresses)]
                make = partial(Client, f"a{model}/k", f"m{model}", partial(self.hear, model))
                _, client = await loop.create_connection(make, *address)
                clients.append(client)
            for client in clients:
                answer = await asyncio.wait_for(client.ready, 30)
                assert b"success" in answer, answer

    def hear(self, model: int, _: bytes) -> None:
        self.latencies.append(time.perf_counter() - self.sent[model])
        self.missing[model] -= 1
        if not self.missing[model] and self.running:
            self.next(model)

    def next(self, model: int) -> None:
        self.missing[model] = PER_MODEL
        self.sent[model] = time.perf_counter()
        self.publishing.start(self.publish(model))

    async def run(self) -> tuple[float, float]:
        """Return deliveries per second, and the 99th percentile of their latency in ms."""
        self.running = True
        for model in range(MODELS):
            self.next(model)
        await asyncio.sleep(WARM_UP)
        self.latencies.clear()
        start = time.perf_counter()
        await asyncio.sleep(SECONDS)
        rate = len(self.latencies) / (time.perf_counter() - start)
        tail = statistics.quantiles(self.latencies, n=100)[98] * 1000
        self.running = False
        await asyncio.sleep(1)
        return rate, tail


def _one_process(report: Report) -> None:
    services = (Service("realtime", replicas=2, http=True),)
    with Stack(servers={"nats"}, services=services, environment={"LOG_LEVEL": "ERROR"}) as stack:
        process = psutil.Process(stack.processes["realtime-1"].pid)

        async def go() -> tuple[float, float, float]:
            async with AsyncExitStack() as stays:
                load = Load(await publisher(stack, stays))
                before = process.memory_info().rss
                await load.connect(stack.addresses["realtime"][:1])
                memory = (process.memory_info().rss - before) / CLIENTS / 1024
                return *(await load.run()), memory

        rate, tail, memory = uvloop.run(go())
        idle = _readiness(stack.addresses["realtime"][1])["decoded"]
    report.add(figure("one process", rate, "deliveries/s", at_least=10_000))
    report.add(figure("99th percentile", tail, "ms", at_most=250))
    report.add(figure("memory of a connection", memory, "KiB", at_most=64))
    report.add(figure("events that the idle process decoded", idle, "events", at_most=0))


def _beside_redis(report: Report) -> None:
    own, peers = [], []
    for _ in range(ROUNDS):  # in turns, so that other load on the machine affects both
        own.append(_two_processes())
        peers.append(_two_redis_processes())
    (rate, tail), (their_rate, their_tail) = map(_medians, (own, peers))
    peer = "Redis manager"
    report.add(
        figure(
            "two processes", rate, "deliveries/s", against=(peer, their_rate), ratio_at_least=1.3
        )
    )
    report.add(
        figure("99th percentile", tail, "ms", against=(peer, their_tail), at_most=their_tail)
    )


def _medians(outcomes: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(o[0] for o in outcomes), statistics.median(o[1] for o in outcomes)


def _two_processes() -> tuple[float, float]:
    services = (Service("realtime", replicas=2, http=True),)
    with Stack(servers={"nats"}, services=services, environment={"LOG_LEVEL": "ERROR"}) as stack:

        async def go() -> tuple[float, float]:
            async with AsyncExitStack() as stays:
                load = Load(await publisher(stack, stays))
                await load.connect(stack.addresses["realtime"])
                return await load.run()

        return uvloop.run(go())


async def publisher(stack: Stack, stays: AsyncExitStack) -> Publish:
    """Return a publisher of metric events; answer authentication as the gateway does."""
    gateway, metrics = [
        await stays.enter_async_context(bus.connect(stack.nats.url(name), name))
        for name in ("gateway", "metrics")
    ]

    async def authenticate(credentials: Credentials) -> Access:
        account, _, key = credentials.token.partition("/")
        return Access(account=account, key=key, scopes=["monitor:read"])

    await Answers("gateway", gateway).answer(AUTHENTICATE, authenticate)

    async def publish(model: int) -> None:
        update = MetricUpdate.model_validate(_event(model))
        await metrics.publish(METRICS_RECORDED, update, f"a{model}", f"m{model}")

    return publish


def _event(model: int) -> dict[str, object]:
    return {"modelId": f"m{model}", "timestamp": "2026-01-31T12:00:00.123456Z", "metrics": METRICS}


def _two_redis_processes() -> tuple[float, float]:
    """Measure python-socketio with two processes, set up as in its documentation."""
    redis_port, *free = ports.find(3)
    url = f"redis://127.0.0.1:{redis_port}/0"
    redis = subprocess.Popen(
        ["redis-server", "--port", str(redis_port), "--bind", "127.0.0.1", "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    context = multiprocessing.get_context("spawn")
    servers = [context.Process(target=_serve_with_redis, args=(url, port)) for port in free]
    for server in servers:
        server.start()
    addresses = [("127.0.0.1", port) for port in free]
    try:
        for address in (("127.0.0.1", redis_port), *addresses):
            _wait_for(address)

        async def go() -> tuple[float, float]:
            manager = socketio.AsyncRedisManager(url, write_only=True)
            # All at once, it would open a connection to Redis for each, and lose some.
            turn = asyncio.Semaphore(REDIS_AT_ONCE)

            async def publish(model: int) -> None:
                async with turn:
                    await manager.emit("metric_update", _event(model), room=f"m{model}")

            load = Load(publish)
            await load.connect(addresses)
            return await load.run()

        return uvloop.run(go())
    finally:
        for server in servers:
            server.terminate()
            server.join()
        redis.terminate()
        redis.wait()


def _serve_with_redis(url: str, port: int) -> None:
    server = socketio.AsyncServer(
        async_mode="asgi", client_manager=socketio.AsyncRedisManager(url), cors_allowed_origins="*"
    )

    async def connect(_sid: str, _environ: object, _auth: object) -> None:
        """Accept every client."""

    async def subscribe(sid: str, data: dict[str, str]) -> dict[str, str]:
        await server.enter_room(sid, data["modelId"])
        return {"status": "success"}

    server.on("connect", connect)
    server.on("subscribe_metrics", subscribe)
    app = socketio.ASGIApp(server)
    uvicorn.run(app, port=port, loop="uvloop", log_level="error", access_log=False)


def _wait_for(address: Address) -> None:
    while True:
        try:
            socket.create_connection(address, timeout=1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return


def _readiness(address: Address) -> dict[str, int]:
    with urllib.request.urlopen(f"http://{address[0]}:{address[1]}/readyz") as answer:
        data: dict[str, int] = json.load(answer)["data"]
    return data


def _record_to_screen(report: Report) -> None:
    """Measure ten clients through Envoy, each with its own model; one HTTP request per update."""
    limits = {"RATE_API": "1000000000", "LOG_LEVEL": "WARNING"}
    with Stack(services=WHOLE, environment=limits, flood_limit=1_000_000) as stack:
        account = Account(stack.url)
        waits, totals = uvloop.run(_record_and_watch(stack, account))
        account.http.close()
    rate = f"at {UPDATES_A_SECOND} updates/s"
    cuts = statistics.quantiles(waits, n=100)
    report.add(
        figure(f"from the answer 200 to the screen {rate}, median", cuts[49], "ms", at_most=20)
    )
    report.add(figure("99th percentile", cuts[98], "ms", at_most=100))
    cuts = statistics.quantiles(totals, n=100)
    report.add(figure("from sending the request to the screen, median", cuts[49], "ms"))
    report.add(figure("99th percentile", cuts[98], "ms"))
    report.notes.append("the event and the answer 200 race; an event that was first counts as 0 ms")


async def _record_and_watch(stack: Stack, account: Account) -> tuple[list[float], list[float]]:
    """Return the ms from the answer, and from the request, until a client has the value."""
    loop = asyncio.get_running_loop()
    connections = [Connection(stack, account, "/v1/api/monitor/record") for _ in range(PER_MODEL)]
    sent_times: list[list[float]] = [[] for _ in connections]
    answered: list[list[float]] = [[] for _ in connections]
    seen: list[list[float]] = [[] for _ in connections]

    def hear(number: int, packet: bytes) -> None:
        newest = int(json.loads(packet[2:])[1]["metrics"]["turn"])
        seen[number] += [time.perf_counter()] * (newest + 1 - len(seen[number]))

    for number, connection in enumerate(connections):
        await connection.open()
        await connection.post(_body(number, -1))
        make = partial(Client, account.key, f"m{number}", partial(hear, number))
        _, client = await loop.create_connection(make, "127.0.0.1", stack.port)
        await asyncio.wait_for(client.ready, 30)

    async def record(number: int, count: int) -> None:
        start = time.perf_counter() + number / UPDATES_A_SECOND
        for turn in range(count):
            due = start + turn * PER_MODEL / UPDATES_A_SECOND
            await asyncio.sleep(max(due - time.perf_counter(), 0))
            sent_times[number].append(time.perf_counter())
            await connections[number].post(_body(number, turn))
            answered[number].append(time.perf_counter())

    count = int((WARM_UP + SECONDS) * UPDATES_A_SECOND / PER_MODEL)
    await asyncio.gather(*(record(number, count) for number in range(PER_MODEL)))
    await asyncio.sleep(1)
    skip = int(count * WARM_UP / (WARM_UP + SECONDS))
    waits, totals = [], []
    for sent, answered_at, there in zip(sent_times, answered, seen, strict=True):
        times = list(zip(sent, answered_at, there, strict=True))[skip:]
        waits += [max(received_s - answered_s, 0) * 1000 for _, answered_s, received_s in times]
        totals += [(received_s - began) * 1000 for began, _, received_s in times]
    return waits, totals


def _body(number: int, turn: int) -> bytes:
    metrics = {**METRICS, "turn": turn}
    return json.dumps({"modelId": f"m{number}", "metrics": metrics}).encode()
