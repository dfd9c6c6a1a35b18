import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from lilypad_client import (
    APIConnectionError,
    APIStatusError,
    AuthenticationError,
    LilypadClient,
    LilypadError,
    RateLimitError,
    ServerError,
)
from lilypad_client import client as client_module

MODULE = {
    "files": {"Dockerfile": "FROM x\n"},
    "validation": {"status": "passed"},
    "model": {"id": "a/b"},
}


class Service(ThreadingHTTPServer):
    """Answers what it was told to, in order, and remembers what it was asked."""

    answers: list[tuple[int, dict[str, str], bytes]]
    asked: list[tuple[str, dict[str, str], Any]]

    def answer(self, status: int, body: object, **headers: str) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers.append((status, named, content))

    def refuse(self, status: int, code: int, **headers: str) -> None:
        error = {"code": code, "message": "no", "details": {"why": "because"}}
        self.answer(status, {"data": None, "error": error, "meta": {}}, **headers)


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append((self.path, dict(self.headers), body))
        status, headers, content = self.server.answers.pop(0)
        self.send_response(status)
        for name, value in {"X-Request-Id": "req_12345678", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[Service]:
    with Service(("127.0.0.1", 0), Handler) as running:
        running.answers, running.asked = [], []
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which the test does not wait for."""
    taken: list[float] = []
    monkeypatch.setattr(client_module.time, "sleep", taken.append)
    return taken


def _client(service: Service, **options: Any) -> LilypadClient:
    return LilypadClient("lmg_live_x", f"http://127.0.0.1:{service.server_port}", **options)


def test_a_module_is_its_files_and_knows_its_model(service: Service, tmp_path: Path) -> None:
    service.answer(200, {"data": MODULE})
    with _client(service) as client:
        module = client.generate_module("a/b", {"batchSize": 4}, revision="v1", accept=["license"])
    assert module["Dockerfile"] == "FROM x\n"
    assert module.model["id"] == "a/b"
    assert (module.write_to(tmp_path / "new") / "Dockerfile").read_text() == "FROM x\n"
    [(path, headers, body)] = service.asked
    assert path == "/v1/api/generate"
    assert headers["Authorization"] == "Bearer lmg_live_x"
    assert body == {
        "modelUrl": "a/b",
        "options": {"batchSize": 4},
        "revision": "v1",
        "accept": ["license"],
    }


def test_a_file_name_that_leaves_the_folder_is_refused(service: Service, tmp_path: Path) -> None:
    service.answer(200, {"data": {**MODULE, "files": {"../evil": "x"}}})
    with _client(service) as client, pytest.raises(ValueError, match="outside"):
        client.generate_module("a/b").write_to(tmp_path / "module")
    assert not (tmp_path / "evil").exists()


def test_it_waits_as_long_as_it_is_asked_to_and_tries_again(
    service: Service, pauses: list[float]
) -> None:
    service.refuse(429, 2002, Retry_After="7")
    service.refuse(503, 5003)
    service.answer(200, {"data": MODULE})
    with _client(service) as client:
        client.generate_module("a/b")
    assert 7 <= pauses[0] < 9
    assert pauses[1] < 2


def test_no_retries_means_none(service: Service, pauses: list[float]) -> None:
    service.refuse(429, 2002, Retry_After="7")
    with _client(service, max_retries=0) as client, pytest.raises(RateLimitError) as caught:
        client.generate_module("a/b")
    assert (caught.value.code, caught.value.request_id) == (2002, "req_12345678")
    assert caught.value.details == {"why": "because"}
    assert pauses == []


@pytest.mark.parametrize(
    ("status", "kind"), [(401, AuthenticationError), (422, APIStatusError), (500, ServerError)]
)
def test_what_cannot_get_better_is_not_tried_again(
    service: Service, pauses: list[float], status: int, kind: type[APIStatusError]
) -> None:
    service.refuse(status, 1)
    with _client(service) as client, pytest.raises(kind):
        client.generate_module("a/b")
    assert len(service.asked) == 1


def test_an_error_that_is_not_the_apis_keeps_its_text(service: Service) -> None:
    service.answer(404, b"<h1>some proxy</h1>")
    with _client(service) as client, pytest.raises(APIStatusError, match="some proxy"):
        client.generate_module("a/b")


@pytest.mark.parametrize(
    "body",
    [{"error": "bad gateway"}, {"error": {"message": "x"}}, {"error": None}, [], "?", None],
)
def test_an_answer_of_another_form_is_an_error_of_the_client(service: Service, body: Any) -> None:
    service.answer(418, body)
    with _client(service) as client, pytest.raises(APIStatusError) as caught:
        client.generate_module("a/b")
    assert (caught.value.status_code, caught.value.code) == (418, 0)


@pytest.mark.parametrize("body", [b"<h1>welcome</h1>", {"data": None}, {"data": {}}, [], None])
def test_a_good_answer_of_somebody_else_is_an_error_of_the_client(
    service: Service, body: Any
) -> None:
    service.answer(200, body)
    with _client(service) as client, pytest.raises(APIConnectionError, match="base_url"):
        client.generate_module("a/b")


def test_nobody_there_is_a_connection_error(service: Service, pauses: list[float]) -> None:
    with LilypadClient("k", "http://127.0.0.1:9") as client, pytest.raises(APIConnectionError):
        client.generate_module("a/b")
    assert len(pauses) == 2


def test_a_download_is_whole_or_not_there(service: Service, tmp_path: Path) -> None:
    content = b"PK" + bytes(range(256))
    service.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')
    service.answer(200, content[:-1], ETag=f'"{hashlib.sha256(content).hexdigest()}"')
    with _client(service) as client:
        assert client.download("a/b", tmp_path / "one.zip").read_bytes() == content
        with pytest.raises(APIConnectionError, match="whole"):
            client.download("a/b", tmp_path / "two.zip")
    assert [path.name for path in tmp_path.iterdir()] == ["one.zip"]


def test_without_a_key_it_says_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LILYPAD_API_KEY", raising=False)
    with pytest.raises(LilypadError, match="LILYPAD_API_KEY"):
        LilypadClient()
