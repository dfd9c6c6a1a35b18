"""A proxy that injects faults and records requests."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self

import httpx2

REFUSALS: dict[str, tuple[int, dict[str, str]]] = {
    "429": (429, {}),
    "429 after 1 s": (429, {"Retry-After": "1"}),
    "429 after 600 s": (429, {"Retry-After": "600"}),
    "429 after a date in the past": (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}),
    "503": (503, {}),
}
REFUSAL = b'{"data":null,"error":{"code":%d,"message":"faulty","details":{}},"meta":{}}'
CODES = {429: 2002, 503: 5003}
SLOW_S = 60.0


class FaultyProxy(ThreadingHTTPServer):
    """A forwarding proxy that applies each of `faults` to one request, in order."""

    daemon_threads = True

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.service = httpx2.Client(base_url=url, timeout=120)
        self.faults: list[str] = []
        # The Idempotency-Key of every request.
        self.keys: list[str | None] = []
        # Requests to which the service has answered.
        self.answered = 0
        self.stopping = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stopping.set()
        self.shutdown()
        self._thread.join()
        self.server_close()
        self.service.close()


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.keys.append(self.headers.get("Idempotency-Key"))
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault in REFUSALS:
            status, headers = REFUSALS[fault]
            self._answer(status, headers, REFUSAL % CODES[status])
            return
        self.close_connection = bool(fault)
        if fault == "reset before":
            return
        passed = {
            name: value
            for name, value in self.headers.items()
            if name.lower() not in {"host", "connection", "content-length"}
        }
        answer = self.server.service.request(
            self.command, self.path, headers=passed, content=body or None
        )
        self.server.answered += 1
        headers = {
            name: value
            for name, value in answer.headers.items()
            if name not in {"content-length", "transfer-encoding", "connection", "date", "server"}
        }
        if fault == "reset after":
            return
        if fault == "slow":
            # Stall until the client has given up, but no longer than the test.
            self.server.stopping.wait(SLOW_S)
            return
        self._answer(answer.status_code, headers, answer.content, half=fault == "half")

    def _answer(
        self, status: int, headers: dict[str, str], content: bytes, *, half: bool = False
    ) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if half else content)

    do_GET = do_POST = do_PATCH = do_DELETE = handle_any  # noqa: N815  (http.server's names)

    def log_message(self, *_: object) -> None:
        pass
