"""CPU that traces cost the gateway per request, at 1 % and at 100 % sampling.

One gateway each on a bus and a database of its own, with the same handler behind it, in turns.
"""

import contextlib
import statistics
import timeit

import psutil

from benchmarks import wrk
from benchmarks.processes import part, require, running, wait_until_served
from benchmarks.report import Report, figure
from common import tracing
from integration.caller import Account
from integration.collector import Collector
from local.services import Service
from local.stack import Stack

TURNS = 7
SECONDS = 2
CONNECTIONS = 8
GATEWAY = Service("gateway", replicas=1, database=True, http=True)
UNLIMITED = dict.fromkeys(("RATE_API", "RATE_GENERATE"), "10000000")
# A request's own span, its call on the bus, and the statements of a request whose key is unknown.
SPANS = 5
# Share of requests that are traced; None: there is no collector.
SHARES = {"untraced": None, "1 %": 0.01, "100 %": 1.0}


def measure() -> Report:
    require("wrk")
    report = Report(f"Traces: CPU of the gateway per request, {CONNECTIONS} connections")
    costs_us: dict[str, list[float]] = {name: [] for name in SHARES}
    with contextlib.ExitStack() as stack:
        collector = stack.enter_context(Collector())
        gateways = {
            name: _start(stack, collector.url if share is not None else None, share or 0.0)
            for name, share in SHARES.items()
        }
        for _ in range(TURNS):
            for name, (port, key, process) in gateways.items():
                before = sum(process.cpu_times()[:2])
                rate, _ = wrk.measure(port, [key], CONNECTIONS, SECONDS)
                spent = sum(process.cpu_times()[:2]) - before
                costs_us[name].append(spent / (rate * SECONDS) * 1e6)
    off = statistics.median(costs_us["untraced"])
    for name, most in (("1 %", 1.15), ("100 %", None)):
        # The median of the turns' ratios, since other load slows down a whole turn.
        pairs = zip(costs_us[name], costs_us["untraced"], strict=True)
        ratio = statistics.median(traced / untraced for traced, untraced in pairs)
        bound = off * most if most else None
        against = "untraced", off
        title = f"{name} of requests traced"
        report.add(figure(title, off * ratio, "µs", against=against, at_most=bound))
    spans_us = _spans_us()
    report.add(figure("untraced: what asks whether to trace", spans_us, "µs", at_most=off / 100))
    return report


def _start(
    stack: contextlib.ExitStack, collector: str | None, share: float
) -> tuple[int, str, psutil.Process]:
    """Start a gateway with a handler; return its port, a key and its process."""
    environment = {**UNLIMITED, "OTEL_TRACES_SAMPLER_ARG": str(share)}
    environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector or ""
    system = stack.enter_context(Stack(services=[GATEWAY], environment=environment))
    handler = {**system.environment_of(Service("generator")), "OTEL_EXPORTER_OTLP_ENDPOINT": ""}
    stack.enter_context(running(part("handler"), handler))
    _, port = system.addresses["gateway"][0]
    key = Account(system.url).key
    wait_until_served(port, key)
    return port, key, psutil.Process(system.processes["gateway-1"].pid)


def _spans_us() -> float:
    """Return the time that a request's span calls take while tracing is off."""
    assert tracing.tracer is None

    def spans() -> None:
        for _ in range(SPANS):
            with tracing.span("op", "client"):
                pass

    rounds = 20_000
    return min(timeit.repeat(spans, number=rounds, repeat=5)) / rounds * 1e6
