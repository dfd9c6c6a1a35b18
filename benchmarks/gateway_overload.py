"""Overload: five times the requests that two gateways can answer, through the edge."""

import contextlib
import os
import statistics
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from benchmarks import wrk
from benchmarks.processes import part, require, running, wait_until_served
from benchmarks.report import Report, figure
from integration.caller import Account
from local.services import Service
from local.stack import Stack

SECONDS = 5
ROUNDS = 3
# Connections of the overload, and its duration in seconds.
CROWD = 5000
OVERLOADED_S = int(os.environ.get("OVERLOADED", "20"))
UNLIMITED = dict.fromkeys(("RATE_API", "RATE_GENERATE", "RATE_REGISTER"), "100000000")


def measure() -> Report:
    require("wrk")
    report = Report("Gateway under overload: two workers, the edge and wrk on the same machine")
    _overload(report)
    return report


def _overload(report: Report) -> None:
    """Send five times the gateways' capacity, from twenty accounts, through the edge."""
    gateways = Service("gateway", replicas=2, database=True, http=True)
    with contextlib.ExitStack() as stack:
        system = stack.enter_context(
            Stack(services=[gateways], environment=UNLIMITED, flood_limit=10_000_000)
        )
        trivial = system.environment_of(Service("generator"))
        stack.enter_context(running(part("handler"), trivial))
        keys = [Account(system.url).key for _ in range(20)]
        wait_until_served(system.port, keys[0])
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
    """Return 200 answers per second before, during and right after a fivefold overload."""
    peak = wrk.flood(system.port, keys, 64, SECONDS)
    with ThreadPoolExecutor(1) as pool:
        flood = pool.submit(wrk.flood, system.port, keys, CROWD, OVERLOADED_S, 5 * peak)
        while not flood.done():
            assert urllib.request.urlopen(f"{system.url}/healthz").status == 200
            time.sleep(0.2)
        goodput = flood.result()
    start = time.perf_counter()
    well = wrk.flood(system.port, keys, 64, SECONDS)
    assert time.perf_counter() - start - SECONDS < 30
    return peak, goodput, well
