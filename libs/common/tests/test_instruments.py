"""Metrics of a service in Prometheus's format."""

import sys
from pathlib import Path

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from common import service
from common.bus import NatsBus
from common.errors import NotFound, Unavailable
from common.instruments import Histogram, Instruments, MetricFamily
from common.settings import ServiceSettings
from local import ports

sys.path.insert(0, str(Path(__file__).parent))
from echo_service import SAY, Say, say

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(text: str) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(port: int) -> Samples:
    async with httpx2.AsyncClient() as http:
        answer = await http.get(f"http://127.0.0.1:{port}/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return read(answer.text)


async def test_caller_and_service_count_a_call_by_operation_and_outcome(
    caller: NatsBus,
) -> None:
    (port,) = ports.find(1)
    settings = ServiceSettings(nats_url=caller.client.connected_url.geturl(), probe_port=port)
    async with service.connect("echo", settings) as echo:
        await echo.answer(SAY, say)
        await echo.bus.flush()
        for text in ("one", "two"):
            await echo.bus.call(SAY, Say(text=text))
        with pytest.raises(NotFound):
            await echo.bus.call(SAY, Say(text="absent"))
        samples = await scrape(port)
    called, answered = "nats_rpc_duration_seconds_count", "nats_rpc_handler_duration_seconds_count"
    for outcome, count in (("ok", 2), ("refused", 1)):
        by = frozenset({("svc", "echo"), ("op", "say"), ("outcome", outcome)})
        assert samples[called, by] == count
        by = frozenset({("op", "echo.say"), ("outcome", outcome)})
        assert samples[answered, by] == count
    assert samples["nats_available", frozenset()] == 1
    assert samples["process_cpu_seconds_total", frozenset()] > 0


async def test_a_call_without_a_reply_is_counted_as_unavailable(caller: NatsBus) -> None:
    with pytest.raises(Unavailable):
        await caller.call(SAY, Say(text="x"))
    [calls] = [family for family in caller.families() if family.kind == "histogram"]
    assert {labels[2] for labels in calls.samples} == {"unavailable"}


def test_a_bucket_includes_its_upper_bound() -> None:
    durations = Histogram((0.1, 1.0))
    for seconds in (0.05, 0.1, 0.5, 7):
        durations.observe(seconds)
    family = MetricFamily("histogram", "job_seconds", "Durations", ("kind",), {("a",): durations})
    counted = read(Instruments(lambda: [family], list).renderer()().decode())
    kind = ("kind", "a")
    buckets = {
        bound: counted["job_seconds_bucket", frozenset({kind, ("le", bound)})]
        for bound in ("0.1", "1.0", "+Inf")
    }
    assert buckets == {"0.1": 2, "1.0": 3, "+Inf": 4}
    assert counted["job_seconds_sum", frozenset({kind})] == pytest.approx(7.65)
