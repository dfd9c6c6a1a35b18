"""A request through the gateway against a bare endpoint, against what one would assemble, and
the limiter and the database under load. Needs wrk and redis-server (Debian packages)."""

import asyncio
import bisect
import contextlib
import functools
import itertools
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import nats
import psycopg

from benchmarks.report import Report, figure
from common import bus
from common.contracts.generation import GENERATE, GenerateOptions, GenerateRequest
from gateway.counters import Policy
from gateway.keys import hash_key, make_key
from gateway.limits import Limits
from integration.caller import PASSWORD, Account
from local import ports
from local.services import Service
from local.stack import Stack

HERE = Path(__file__).parent
ROOT = HERE.parent
SECONDS = 5
ROUNDS = 3
# Connections that ask for more than it can do, and for how many seconds.
CROWD = 5000
OVERLOADED = int(os.environ.get("OVERLOADED", "20"))
# Keys of which each asks once.
ASKED = 500
# Seconds for which one key asks without pause.
WINDOWS = 150.0
GENEROUS = dict.fromkeys(("RATE_API", "RATE_GENERATE", "RATE_REGISTER"), "100000000")
LATENCY = {"us": 1e-3, "ms": 1.0, "s": 1e3}


def measure() -> Report:
    report = Report("Gateway: one worker each, wrk on the same machine")
    for program in ("wrk", "redis-server"):
        if not shutil.which(program):
            report.notes.append(f"not measured: install {program}")
            return report
    _compare_requests(report)
    _compare_database(report)
    _count_exactly(report)
    _decide(report)
    _overload(report)
    return report


def _compare_requests(report: Report) -> None:
    one_gateway = Service("gateway", replicas=1, database=True, http=True)
    trivial = Service("generator")
    bare_port, redis_port, behind_port, proxy_port = ports.find(4)
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(
            Stack(services=[one_gateway], environment=GENEROUS, flood_limit=1_000_000)
        )
        environment = system.environment_of(trivial)
        stack.enter_context(_process(_python("handler"), environment))
        stack.enter_context(_process(_python("bare", str(bare_port))))
        stack.enter_context(_process(["redis-server", "--port", str(redis_port), "--save", ""]))
        peer = [str(_peer_python()), str(HERE / "gateway_peer.py")]
        stack.enter_context(_process([*peer, "behind", str(behind_port)]))
        stack.enter_context(
            _process([*peer, "proxy", str(proxy_port), str(redis_port), str(behind_port)])
        )
        key = Account(system.url).key
        _, port = system.addresses["gateway"][0]
        targets = {"gateway": (port, key), "bare": (bare_port, key), "peer": (proxy_port, "secret")}
        for target in targets.values():
            _wait_for(*target)
        found: dict[tuple[str, int], list[tuple[float, float]]] = {}
        # In turns, so that a neighbour on the machine disturbs all of them alike.
        for _ in range(ROUNDS):
            for name, target in targets.items():
                for connections in (1, 64):
                    found.setdefault((name, connections), []).append(_wrk(*target, connections))
        on_the_bus = asyncio.run(_on_the_bus(system))
    rate = {k: statistics.median(r for r, _ in v) for k, v in found.items()}
    median = {k: statistics.median(m for _, m in v) for k, v in found.items()}
    for connections, bare_ratio, peer_ratio in ((1, None, 5), (64, 0.7, 10)):
        ours, at = rate["gateway", connections], f"{connections} connections"
        bare, peer = rate["bare", connections], rate["peer", connections]
        report.add(
            figure(
                f"through gateway and NATS, {at}",
                ours,
                "requests/s",
                against=("bare FastAPI", bare),
                ratio_at_least=bare_ratio,
            )
        )
        report.add(
            figure(
                f"the same, {at}",
                ours,
                "requests/s",
                against=("FastAPI + slowapi + httpx", peer),
                ratio_at_least=peer_ratio,
            )
        )
    more = median["gateway", 1] - median["bare", 1]
    report.add(figure("more at the median than bare, 1 connection", more, "ms", at_most=1.5))
    report.add(figure("of that, the question on the bus and its answer", on_the_bus, "ms"))


async def _on_the_bus(system: Stack) -> float:
    """Milliseconds at the median that the same handler takes when it is asked without a gateway."""
    async with bus.connect(system.nats.url("gateway"), "gateway") as connection:
        question = GenerateRequest(model_url="a/b", options=GenerateOptions(batch_size=4))
        times: list[float] = []
        for _ in range(3000):
            start = time.perf_counter()
            await connection.pass_on(GENERATE, question)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3


def _compare_database(report: Report) -> None:
    """The first request with a key, among a thousand keys and accounts and among a million."""
    sizes = (1_000, 1_000_000)
    with contextlib.ExitStack() as stack:
        doors = [_door_among(stack, total) for total in sizes]
        # In turns, so that a neighbour on the machine disturbs both alike.
        times = [[ask(number) for ask, _ in doors] for number in range(ASKED)]
        statements = [look_up() for _, look_up in doors]
    few, many = (statistics.median(column) for column in zip(*times, strict=True))
    name = "with a key that is new to the gateway, among 1,000,000"
    against = ("among 1,000", few)
    report.add(figure(name, many, "ms", against=against, at_most=1.1 * few))
    few, many = statements
    report.add(figure("of that, to look up the key", many, "ms", against=("among 1,000", few)))


def _door_among(
    stack: contextlib.ExitStack, total: int
) -> tuple[Callable[[int], float], Callable[[], float]]:
    """Ask with one key or another of so many, and look all of them up: how many ms each took."""
    gateway = Service("gateway", replicas=1, database=True, http=True)
    system = stack.enter_context(Stack(services=[gateway], environment=GENEROUS))
    stack.enter_context(_process(_python("handler"), system.environment_of(Service("generator"))))
    _wait_for(system.port, Account(system.url).key)
    keys = [make_key() for _ in range(ASKED)]
    database = stack.enter_context(psycopg.connect(system.postgres.url("gateway"), autocommit=True))
    database.execute(
        "insert into accounts (id, email, password)"
        " select 'many_' || n, 'many_' || n || '@example.com', ''"
        " from generate_series(1, %s) n",
        [total],
    )
    database.execute(
        "insert into keys (id, account_id, name, prefix, hash, scopes)"
        " select 'many_' || n, 'many_' || n, '', '', sha256(n::text::bytea), '{generate}'"
        " from generate_series(1, %s) n",
        [total],
    )
    for number, key in enumerate(keys, 1):
        database.execute(
            "update keys set hash = %s where id = 'many_' || %s",
            [hash_key(key), number * (total // ASKED)],
        )
    database.execute("vacuum analyze")
    http = stack.enter_context(httpx2.Client(base_url=system.url, timeout=60))

    def ask(number: int) -> float:
        headers = {"Authorization": f"Bearer {keys[number]}"}
        start = time.perf_counter()
        answer = http.post("/v1/api/generate", json={"modelUrl": "a/b"}, headers=headers)
        taken = time.perf_counter() - start
        assert answer.status_code == 200, answer.text
        return taken * 1e3

    def look_up() -> float:
        times = []
        for key in keys:
            start = time.perf_counter()
            row = database.execute(
                "select account_id, keys.id, scopes, beta from keys"
                " join accounts on accounts.id = account_id where hash = %s"
                " and revoked_at is null and (expires_at is null or expires_at > now())",
                [hash_key(key)],
                prepare=True,
            ).fetchone()
            times.append(time.perf_counter() - start)
            assert row is not None
        return statistics.median(times) * 1e3

    return ask, look_up


def _count_exactly(report: Report) -> None:
    """Four gateways and one key: 500 calls at once, a flood, and calls without pause."""
    gateways = Service("gateway", replicas=4, database=True, http=True)
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(
            Stack(services=[gateways], environment={"RATE_REGISTER": "1000"})
        )
        doors = [
            stack.enter_context(
                httpx2.Client(
                    base_url=f"http://{host}:{port}",
                    timeout=60,
                    limits=httpx2.Limits(max_connections=None),
                )
            )
            for host, port in system.addresses["gateway"]
        ]

        def ask(account: Account, door: httpx2.Client) -> httpx2.Response:
            return door.get("/v1/api/benchmark/none", headers=account.headers)

        account = Account(system.url)
        left = int(ask(account, doors[0]).headers["x-ratelimit-remaining"])
        with ThreadPoolExecutor(500) as pool:
            at_once = [pool.submit(ask, account, doors[n % 4]) for n in range(500)]
            admitted = sum(answer.result().status_code != 429 for answer in at_once)
        before = _messages(system)
        with ThreadPoolExecutor(16) as pool:
            flood = [pool.submit(ask, account, doors[n % 4]) for n in range(500)]
            assert {answer.result().status_code for answer in flood} == {429}
        during = _messages(system) - before
        account = Account(system.url)
        worst = _worst_window([functools.partial(ask, account, door) for door in doors])
    report.add(
        figure(
            f"admitted of 500 at once, with {left} left",
            admitted,
            "requests",
            at_least=left,
            at_most=left,
        )
    )
    report.add(figure("bus messages for 500 more on the key", during, "messages", at_most=0))
    report.add(
        figure(
            f"admitted in the worst 60 s of {WINDOWS:g}, limit 100", worst, "requests", at_most=105
        )
    )


def _worst_window(doors: list[Callable[[], httpx2.Response]]) -> int:
    """The most that was admitted in any 60 s, while at each door four ask without pause."""
    end = time.monotonic() + WINDOWS

    def ask_on(door: Callable[[], httpx2.Response]) -> list[float]:
        admitted = []
        while (now := time.monotonic()) < end:
            if door().status_code == 429:
                time.sleep(0.02)  # leaves the gateways a processor
            else:
                admitted.append(now)
        return admitted

    with ThreadPoolExecutor(4 * len(doors)) as pool:
        times = sorted(itertools.chain(*pool.map(ask_on, 4 * doors)))
    return max(bisect.bisect(times, first + 60) - n for n, first in enumerate(times))


def _decide(report: Report) -> None:
    """How long counting one request takes, and how soon a revoked key is refused."""
    gateways = Service("gateway", replicas=4, database=True, http=True)
    with Stack(services=[gateways], environment=GENEROUS) as system:
        report.add(
            figure(
                "deciding about a request, median",
                asyncio.run(_decision(system)),
                "ms",
                at_most=0.5,
            )
        )
        account = Account(system.url)
        doors = [f"http://{host}:{port}" for host, port in system.addresses["gateway"]]
        worst = max(_revocation(account, doors) for _ in range(10))
    report.add(figure("until 4 gateways refuse a revoked key, worst of 10", worst, "s", at_most=1))


async def _decision(system: Stack) -> float:
    """Milliseconds."""
    async with bus.connect(system.nats.url("gateway"), "gateway") as connection:
        limits = Limits(connection, [Policy("api", 1_000_000)])
        await limits.start()
        times: list[float] = []
        for _ in range(3000):
            start = time.perf_counter()
            await limits.admit("acc_one", ["api"])
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3


def _revocation(account: Account, doors: list[str]) -> float:
    made = account.make_key("revoked")
    headers = {"Authorization": f"Bearer {made['key']}"}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(httpx2.Client(base_url=door)) for door in doors]

        def statuses() -> set[int]:
            return {
                client.get("/v1/api/alerts/rules", headers=headers).status_code
                for client in clients
            }

        assert 401 not in statuses()
        account.http.delete(f"/v1/api/keys/{made['id']}", auth=(account.email, PASSWORD))
        start = time.perf_counter()
        while statuses() != {401}:
            pass
        return time.perf_counter() - start


def _overload(report: Report) -> None:
    """Five times what it can do, from twenty accounts, through the edge."""
    gateways = Service("gateway", replicas=2, database=True, http=True)
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(
            Stack(services=[gateways], environment=GENEROUS, flood_limit=10_000_000)
        )
        trivial = system.environment_of(Service("generator"))
        stack.enter_context(_process(_python("handler"), trivial))
        keys = [Account(system.url).key for _ in range(20)]
        _wait_for(system.port, keys[0])
        rounds = [_flood_once(system, keys) for _ in range(ROUNDS)]
    peak, goodput, well = (statistics.median(column) for column in zip(*rounds, strict=True))
    report.add(
        figure(
            f"answered of {5 * peak:,.0f} requests/s on {CROWD:,} connections",
            goodput,
            "requests/s",
            against=("at 64 connections", peak),
            ratio_at_least=0.8,
        )
    )
    report.add(
        figure(
            "at 64 connections right after",
            well,
            "requests/s",
            against=("before", peak),
            ratio_at_least=0.8,
        )
    )


def _flood_once(system: Stack, keys: list[str]) -> tuple[float, float, float]:
    """Good answers per second before, while it is asked for five times as much, and right after."""
    peak = _flood(system.port, keys, 64, SECONDS)
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(_flood, system.port, keys, CROWD, OVERLOADED, 5 * peak)
        while not flood.done():
            assert urllib.request.urlopen(f"{system.url}/healthz").status == 200
            time.sleep(0.2)
        goodput = flood.result()
    start = time.perf_counter()
    well = _flood(system.port, keys, 64, SECONDS)
    assert time.perf_counter() - start - SECONDS < 30
    return peak, goodput, well


def _flood(port: int, keys: list[str], connections: int, seconds: int, rate: float = 0.0) -> float:
    """Good answers per second; the others must be 503. `rate`: requests per second, if bounded."""
    delay = f"function delay() return {connections / rate * 1e3} end\n" if rate else ""
    listed = ", ".join(f'"Bearer {key}"' for key in keys)
    script = (
        f"keys = {{{listed}}}\nn = 0\n"
        "function request()\n"
        "  n = n % #keys + 1\n"
        '  return wrk.format("POST", "/v1/api/generate", {["Content-Type"] = "application/json",'
        """ ["Authorization"] = keys[n]}, '{"modelUrl": "a/b"}')\nend\n"""
        f"{delay}function response(status)\n"
        "  if status == 200 then good = (good or 0) + 1\n"
        "  elseif status ~= 503 then other = status end\nend\n"
        "threads = {}\n"
        "function setup(thread) table.insert(threads, thread) end\n"
        "function done(summary)\n"
        '  io.write("good ", threads[1]:get("good") or 0, " other ",'
        ' threads[1]:get("other") or 0, " us ", summary.duration, "\\n")\nend\n'
    )
    done = _run_wrk(port, script, connections, seconds)
    found = re.search(r"good (\d+) other (\d+) us (\d+)", done)
    assert found
    assert found[2] == "0", done
    return int(found[1]) / int(found[3]) * 1e6


def _messages(system: Stack) -> int:
    """The counters' stream knows how many were published to it."""

    async def ask() -> int:
        client = await nats.connect(system.nats.url("supervisor"), inbox_prefix="_INBOX.supervisor")
        try:
            info = await client.jetstream().stream_info("LIMITS_60")
            return info.state.last_seq
        finally:
            await client.close()

    return asyncio.run(ask())


def _python(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.gateway_parts", *arguments]


@contextlib.contextmanager
def _process(command: list[str], environment: dict[str, str] | None = None) -> Iterator[None]:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        command,
        env={**os.environ, **(environment or {}), "PYTHONPATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def _peer_python() -> Path:
    """The interpreter of the peers' own environment; made the first time."""
    python = ROOT / ".venv-bench" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        install = ["-m", "pip", "install", "-q", "-r", str(HERE / "gateway_peers.txt")]
        subprocess.run([str(python), *install], check=True)
    return python


def _wait_for(port: int, key: str) -> None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/api/generate",
        data=b'{"modelUrl": "a/b"}',
        headers={"Content-Type": "application/json", "Authorization": f"Bearer {key}"},
    )
    while True:
        try:
            with urllib.request.urlopen(request) as answer:
                assert answer.status == 200
        except OSError:
            time.sleep(0.2)
        else:
            return


def _wrk(port: int, key: str, connections: int) -> tuple[float, float]:
    """Requests per second, and the median in milliseconds."""
    script = (
        'wrk.method = "POST"\n'
        """wrk.body = '{"modelUrl": "https://huggingface.co/a/b", "options": {"batchSize": 4}}'\n"""
        'wrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["Authorization"] = "Bearer {key}"\n'
    )
    done = _run_wrk(port, script, connections, SECONDS)
    assert "Non-2xx" not in done, done
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", done)
    assert rate
    assert median
    return float(rate[1]), float(median[1]) * LATENCY[median[2]]


def _run_wrk(port: int, script: str, connections: int, seconds: int) -> str:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        done = subprocess.run(
            [
                *("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency"),
                *("-s", file.name, f"http://127.0.0.1:{port}/v1/api/generate"),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
    return done.stdout
