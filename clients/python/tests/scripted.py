"""A service that gives scripted answers in order, and records the requests."""

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Service(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: list[dict[str, Any]] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, data: Any, status: int = 200, **fields: Any) -> None:
        content = data if isinstance(data, bytes) else json.dumps({"data": data}).encode()
        self.answers.append({"status": status, "content": content, **fields})

    def refuse(self, status: int, code: int, reason: str = "", **fields: Any) -> None:
        details = {"why": "because"} | ({"reason": reason} if reason else {})
        error = {"code": code, "message": "no", "details": details}
        content = json.dumps({"data": None, "error": error, "meta": {}}).encode()
        self.answers.append({"status": status, "content": content, **fields})


class Handler(BaseHTTPRequestHandler):
    server: Service

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.requests.append((self.path, dict(self.headers), body))
        answer = self.server.answers.pop(0)
        if answer.get("reset"):
            return
        content = answer["content"]
        self.send_response(answer["status"])
        for name, value in {"X-Request-Id": "req_12345678", **answer.get("headers", {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if answer.get("half") else content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815  (http.server's names)

    def log_message(self, *_: object) -> None:
        pass
