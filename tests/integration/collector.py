"""A collector of traces: OTLP over HTTP, kept in memory."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Trace = list[tuple[str, Any]]


class Collector:
    """A collector of spans at `url`; `traces` maps each trace id to spans and their services."""

    def __init__(self) -> None:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.traces: dict[str, Trace] = {}
        self.arrived = threading.Condition()

    def __enter__(self) -> Self:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def take(self, request: ExportTraceServiceRequest) -> None:
        with self.arrived:
            for resource in request.resource_spans:
                attributes = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        trace = self.traces.setdefault(span.trace_id.hex(), [])
                        trace.append((attributes["service.name"], span))
            self.arrived.notify_all()

    def wait_for(self, trace: str, *spans: tuple[str, str]) -> Trace:
        """Wait until a trace has these spans (service, name); return all its spans."""

        def complete() -> bool:
            return {*spans} <= {(service, s.name) for service, s in self.traces.get(trace, ())}

        with self.arrived:
            assert self.arrived.wait_for(complete, timeout=300), (
                f"not among {self.traces.get(trace)}"
            )
            return list(self.traces[trace])
