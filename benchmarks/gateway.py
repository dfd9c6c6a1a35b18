"""A request through the gateway as shipped, against a bare endpoint and peers.

The limits are the defaults; the load is spread over a thousand accounts or more to stay below them.
"""

import asyncio
import contextlib
import http.client
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import psycopg

from benchmarks import wrk
from benchmarks.processes import ROOT, part, require, running, wait_until_served
from benchmarks.report import Report, figure
from common import bus
from common.contracts.generation import GENERATE, GenerateOptions, GenerateRequest
from gateway.keys import hash_key, make_key
from integration.caller import Account
from local import ports
from local.services import Service
from local.stack import Stack

HERE = Path(__file__).parent
SECONDS = 2
# Turns, each with one run of every target, so that other load on the machine affects all equally.
TURNS = 7
CONNECTIONS = (1, 64)
# An account has 10 generations a minute: one makes its key known, and these are measured.
MAX_PER_ACCOUNT = 8
MIN_ACCOUNTS = 1000


@dataclass
class Found:
    """The runs of one target at one number of connections, in the order of their turns."""

    rates: list[float] = field(default_factory=list)
    medians_ms: list[float] = field(default_factory=list)

    def add(self, rate: float, median_ms: float) -> None:
        self.rates.append(rate)
        self.medians_ms.append(median_ms)


def measure() -> Report:
    require("wrk", "redis-server")
    report = Report("Gateway as shipped: one worker each, wrk on the same machine")
    results, on_the_bus_ms = _run()
    for connections, bare_ratio, peer_ratio in ((1, None, 5), (64, 0.95, 10)):
        gateway, at = results["gateway", connections], f"{connections} connections"
        for name, against, least in (
            ("bare", "bare FastAPI", bare_ratio),
            ("peer", "FastAPI + slowapi + httpx", peer_ratio),
        ):
            # The median of the turns' ratios, since a slow turn is slow for both.
            other = results[name, connections]
            ratio = _median_of(lambda a, b: a / b, gateway.rates, other.rates)
            rate = statistics.median(gateway.rates)
            report.add(
                figure(
                    f"through gateway and NATS, {at}",
                    rate,
                    "requests/s",
                    against=(against, rate / ratio),
                    ratio_at_least=least,
                )
            )
    more = _median_of(
        lambda a, b: a - b, results["gateway", 1].medians_ms, results["bare", 1].medians_ms
    )
    report.add(figure("more at the median than bare, 1 connection", more, "ms", at_most=0.45))
    report.add(figure("of that, the question on the bus and its answer", on_the_bus_ms, "ms"))
    report.notes += [
        f"{name}, {connections} connections: "
        + ", ".join(f"{rate:,.0f}" for rate in runs.rates)
        + " requests/s in the turns"
        for (name, connections), runs in results.items()
    ]
    return report


def _median_of(
    combine: Callable[[float, float], float], first: list[float], second: list[float]
) -> float:
    """Combine each turn's pair of runs; return the median over the turns.

    A turn is ignored if other load on the machine starved one of its runs.
    """
    pairs = [(a, b) for a, b in zip(first, second, strict=True) if a and b]
    return statistics.median(combine(a, b) for a, b in pairs)


def _run() -> tuple[dict[tuple[str, int], Found], float]:
    one_gateway = Service("gateway", replicas=1, database=True, http=True)
    bare_port, redis_port, behind_port, proxy_port = ports.find(4)
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(Stack(services=[one_gateway]))
        environment = system.environment_of(Service("generator"))
        stack.enter_context(running(part("handler"), environment))
        stack.enter_context(running(part("bare", str(bare_port))))
        stack.enter_context(running(["redis-server", "--port", str(redis_port), "--save", ""]))
        peer = [str(_peer_python()), str(HERE / "gateway_peer.py")]
        stack.enter_context(running([*peer, "behind", str(behind_port)]))
        stack.enter_context(
            running([*peer, "proxy", str(proxy_port), str(redis_port), str(behind_port)])
        )
        _, port = system.addresses["gateway"][0]
        wait_until_served(port, Account(system.url).key)
        for others in (bare_port, proxy_port):
            wait_until_served(others, "secret")
        rate, _ = wrk.measure(bare_port, ["secret"], 64, SECONDS)
        accounts = max(MIN_ACCOUNTS, math.ceil(1.1 * rate * SECONDS / MAX_PER_ACCOUNT))
        runs = {
            (name, connections): Found()
            for name in ("gateway", "bare", "peer")
            for connections in CONNECTIONS
        }
        for _ in range(TURNS):
            for connections in CONNECTIONS:
                keys = _make_accounts(system, accounts)
                _make_known(port, keys)
                for name, at, sent in (
                    ("gateway", port, keys),
                    ("bare", bare_port, keys),
                    ("peer", proxy_port, ["secret"]),
                ):
                    runs[name, connections].add(*wrk.measure(at, sent, connections, SECONDS))
        return runs, asyncio.run(_on_the_bus(system))


def _make_accounts(system: Stack, count: int) -> list[str]:
    """Insert accounts with a key each; return the keys."""
    keys = [make_key() for _ in range(count)]
    names = [f"acc_{key[-12:]}" for key in keys]
    with psycopg.connect(system.postgres.url("gateway"), autocommit=True) as database:
        database.execute(
            "insert into accounts (id, email, password)"
            " select name, name || '@example.com', '' from unnest(%s::text[]) name",
            [names],
        )
        database.execute(
            "insert into keys (id, account_id, name, prefix, hash, scopes)"
            " select 'key_' || name, name, '', '', hash, '{generate}'"
            " from unnest(%s::text[], %s::bytea[]) as made (name, hash)",
            [names, [hash_key(key) for key in keys]],
        )
    return keys


def _make_known(port: int, keys: list[str]) -> None:
    """Send one request with each key, which the gateway then caches for five seconds."""

    def send_first(keys_of_thread: list[str]) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for key in keys_of_thread:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
            connection.request("POST", "/v1/api/generate", wrk.BODY, headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200, answer.status

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(send_first, [keys[n::8] for n in range(8)]))


async def _on_the_bus(system: Stack) -> float:
    """Return the median milliseconds of the same handler, called without a gateway."""
    async with bus.connect(system.nats.url("gateway"), "gateway") as connection:
        question = GenerateRequest(model_url="a/b", options=GenerateOptions(batch_size=4))
        times: list[float] = []
        for _ in range(3000):
            start = time.perf_counter()
            await connection.pass_on(GENERATE, question)
            times.append(time.perf_counter() - start)
        return statistics.median(times) * 1e3


def _peer_python() -> Path:
    """Return the interpreter of the peers' environment; create it the first time."""
    python = ROOT / ".venv-bench" / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(python.parents[1])], check=True)
        install = ["-m", "pip", "install", "-q", "-r", str(HERE / "gateway_peers.txt")]
        subprocess.run([str(python), *install], check=True)
    return python
