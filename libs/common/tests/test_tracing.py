"""Traces across processes, as a collector receives them."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from common import tracing
from common.bus import NatsBus
from common.context import Context, current
from common.errors import ServiceError
from integration.collector import Collector

sys.path.insert(0, str(Path(__file__).parent))
from echo_service import SAY, Say

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


async def test_a_call_and_its_handler_in_another_process_are_one_trace(
    collector: Collector, caller: NatsBus, start_child: Callable[..., Any]
) -> None:
    await start_child().ready()
    async with tracing.exporting("caller", collector.url, 1):
        current.set(Context("abcdefgh", traceparent=f"00-{TRACE}-{PARENT}-00"))
        await caller.call(SAY, Say(text="not traced"))
        current.set(Context("abcdefgh", traceparent=f"00-{TRACE}-{PARENT}-01"))
        with pytest.raises(ServiceError):
            await caller.call(SAY, Say(text="bug"))
        current.set(Context())
    ends = ("caller", SAY.subject), ("echo", SAY.subject)
    trace = await asyncio.to_thread(collector.wait_for, TRACE, *ends)
    spans = dict(trace)
    assert len(trace) == 2
    assert spans["caller"].parent_span_id.hex() == PARENT
    assert spans["echo"].parent_span_id == spans["caller"].span_id
    assert spans["echo"].status.message == "RuntimeError"
    assert {*collector.traces} == {TRACE}


@pytest.mark.parametrize(("share", "given", "passed_on"), [(0, "01", "00"), (1, "00", "01")])
async def test_a_caller_can_continue_a_trace_but_not_decide_its_sampling(
    collector: Collector, share: float, given: str, passed_on: str
) -> None:
    async with tracing.exporting("gateway", collector.url, share):
        assert tracing.tracer
        ids = f"00-{TRACE}-{PARENT}-"
        assert tracing.tracer.decide(ids + given) == ids + passed_on
        assert tracing.tracer.decide("") == ("-01" if share else "")


def test_an_invalid_traceparent_is_not_passed_on() -> None:
    assert tracing.read(f"00-{TRACE}-{PARENT}-01".encode())
    for header in (b"", b"00-1-2-01", f"00-{TRACE}-{PARENT}-01\r\nAccount: a".encode()):
        assert tracing.read(header) == ""


def test_a_service_without_tracing_imports_no_sdk() -> None:
    names = "import sys, common.service, common.postgres; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", names], capture_output=True, text=True, check=True)
    loaded = done.stdout.split()
    assert "common.tracing" in loaded
    assert not [name for name in loaded if name.startswith(("opentelemetry", "prometheus_client"))]
