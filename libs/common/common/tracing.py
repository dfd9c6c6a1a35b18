"""Spans of the requests that are traced, exported by OTLP.

The gateway decides before any span exists, and its decision travels in
`traceparent`: of a request that is not traced, services only pass that header
on. OpenTelemetry is imported where `OTEL_EXPORTER_OTLP_ENDPOINT` is set. It gets
no global provider, or FastAPI would add four spans of its own to each request.

Spans hold names, statuses and SQL without its parameters: nothing of a caller.
"""

import asyncio
import random
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, Literal

from common.context import current
from common.errors import ServiceError

TRACEPARENT = re.compile(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
SAMPLED, UNSAMPLED = "-01", "-00"
# Interval between two batches of spans; a collector that takes longer to accept one loses it.
EXPORT_INTERVAL_S, EXPORT_TIMEOUT_S = 1.0, 5.0

Kind = Literal["server", "client", "consumer"]
Attributes = dict[str, Any]

NOTHING: AbstractContextManager[None] = nullcontext()


class Tracer:
    """The spans of this process.

    Args:
        service: its name in traces.
        endpoint: the collector's address, to which `/v1/traces` is added.
        share: the share of outside requests to trace.
    """

    def __init__(self, service: str, endpoint: str, share: float) -> None:
        # Imported only by a process that traces: it takes a quarter of a second.
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415
            OTLPSpanExporter,
        )
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415

        address = f"{endpoint.rstrip('/')}/v1/traces"
        exporter = OTLPSpanExporter(endpoint=address, timeout=EXPORT_TIMEOUT_S)
        resource = Resource({"service.name": service, "service.namespace": "lilypad"})
        self.provider = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        self.provider.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=EXPORT_INTERVAL_S * 1e3)
        )
        self.share = share
        self._tracer = self.provider.get_tracer("lilypad")
        self._trace = trace

    def decide(self, traceparent: str) -> str:
        """Return the `traceparent` to use for an outside request, with our own sampling decision.

        The caller's trace is continued, but not the caller's decision: the cost is ours. The
        first span of a new trace has no parent, so its `traceparent` is `-01` alone.
        """
        sampled = random.random() < self.share  # noqa: S311  (no secret)
        if traceparent:
            return traceparent[:-3] + (SAMPLED if sampled else UNSAMPLED)
        return SAMPLED if sampled else ""

    @contextmanager
    def open(self, name: str, kind: Kind, parent: str, attributes: Attributes) -> Iterator[Any]:
        """Open a span; spans opened in the block are its children."""
        span = self._tracer.start_span(
            name, self._below(parent), self._trace.SpanKind[kind.upper()], attributes
        )
        own = span.get_span_context()
        traceparent = f"00-{own.trace_id:032x}-{own.span_id:016x}{SAMPLED}"
        token = current.set(replace(current.get(), traceparent=traceparent))
        try:
            yield span
        except Exception as error:
            if not isinstance(error, ServiceError) or error.status >= 500:
                self.fail(span, type(error).__name__)
            raise
        finally:
            current.reset(token)
            span.end()

    def fail(self, span: Any, reason: str) -> None:
        """Mark a span as failed."""
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, reason))

    def _below(self, parent: str) -> Any:
        """Return OpenTelemetry's context for a parent span in another process, or an empty one."""
        trace = self._trace
        if not TRACEPARENT.fullmatch(parent):
            return trace.set_span_in_context(trace.INVALID_SPAN)
        _, trace_id, span_id, _ = parent.split("-")
        flags = trace.TraceFlags(trace.TraceFlags.SAMPLED)
        remote = trace.SpanContext(int(trace_id, 16), int(span_id, 16), True, flags)
        return trace.set_span_in_context(trace.NonRecordingSpan(remote))


def read(header: bytes) -> str:
    """Return a caller's `traceparent`, or "" if it is invalid."""
    text = header.decode("latin-1")
    return text if TRACEPARENT.fullmatch(text) else ""


# The tracer of this process, global like the log's configuration; None: nothing is traced.
tracer: Tracer | None = None


def span(
    name: str, kind: Kind, attributes: Attributes | None = None
) -> AbstractContextManager[Any]:
    """Open a span below the current one, if the request is traced."""
    if tracer is None or not (parent := current.get().traceparent).endswith(SAMPLED):
        return NOTHING
    return tracer.open(name, kind, parent, attributes or {})


@asynccontextmanager
async def exporting(service: str, endpoint: str | None, share: float) -> AsyncIterator[None]:
    """Trace during the block, and export the rest at its end; without `endpoint`, do nothing."""
    global tracer  # noqa: PLW0603  (one per process, as the log)
    if endpoint is None:
        yield
        return
    tracer = own = Tracer(service, endpoint, share)
    try:
        yield
    finally:
        tracer = None
        await asyncio.to_thread(own.provider.shutdown)
