import json
import pickle
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import numpy as np
import pytest
from scripted import Service

import lilypad_client
from lilypad_client import (
    APIConnectionError,
    APIStatusError,
    ArchiveError,
    AsyncLilypadClient,
    AuthenticationError,
    BenchmarkError,
    JobTimeoutError,
    LilypadClient,
    LilypadError,
    RateLimitError,
    errors,
    operations,
)
from lilypad_client.operation import Operation

MODULE = {
    "files": {"Dockerfile": "FROM x\n"},
    "validation": {"status": "passed", "errors": [], "checks": []},
    "model": {
        "id": "a/b", "commit": "0" * 40, "task": "fill-mask", "library": "transformers",
        "license": None, "parameters": None, "weightBytes": 1, "vramMiB": 1,
        "vramSource": "headers",
    },
}  # fmt: skip
RUN = {
    "id": "bench_1", "modelId": "a/b", "commit": "0" * 40, "state": "queued",
    "progress": {"done": 0, "total": 4}, "createdAt": "2026-01-31T12:00:00Z",
}  # fmt: skip
OVER = {**RUN, "state": "succeeded", "progress": {"done": 4, "total": 4}}


def _client(service: Service, **options: Any) -> LilypadClient:
    return LilypadClient("lmg_live_x", service.url, **options)


def test_a_module_is_a_mapping_of_its_files_and_names_its_model(
    service: Service, tmp_path: Path
) -> None:
    service.answer(MODULE)
    with _client(service) as client:
        module = client.generate_module(
            "a/b", options={"batchSize": 4}, revision="v1", accept=["license"]
        )
    assert module["Dockerfile"] == "FROM x\n"
    assert module.model.id == "a/b"
    assert (module.write_to(tmp_path / "new") / "Dockerfile").read_text() == "FROM x\n"
    [(path, headers, body)] = service.requests
    assert path == "/v1/api/generate"
    assert headers["Authorization"] == "Bearer lmg_live_x"
    assert json.loads(body) == {
        "modelUrl": "a/b",
        "options": {"batchSize": 4},
        "revision": "v1",
        "accept": ["license"],
    }


def test_a_file_name_outside_the_folder_is_refused(service: Service, tmp_path: Path) -> None:
    service.answer({**MODULE, "files": {"../evil": "x"}})
    with _client(service) as client, pytest.raises(ArchiveError, match="outside"):
        client.generate_module("a/b").write_to(tmp_path / "module")
    assert not (tmp_path / "evil").exists()


def test_values_and_fields_of_a_newer_service_are_accepted(service: Service) -> None:
    service.answer({**RUN, "state": "paused", "news": 1})
    with _client(service) as client:
        run = client.benchmarks.get("bench_1")
    assert run.state == "paused"
    assert run.to_dict()["news"] == run["news"] == 1
    assert run["progress"]["total"] == 4
    with pytest.raises(KeyError):
        run["never_heard_of"]


@pytest.mark.parametrize("kind", errors.APIStatusError.by_code.values())
def test_every_error_code_has_its_exception_with_advice(
    service: Service, kind: type[APIStatusError]
) -> None:
    code = next(code for code, known in APIStatusError.by_code.items() if known is kind)
    service.refuse(422, code)
    with _client(service) as client, pytest.raises(kind) as caught:
        client.generate_module("a/b")
    assert (caught.value.code, caught.value.request_id) == (code, "req_12345678")
    assert caught.value.details == {"why": "because"}
    assert caught.value.advice
    assert "req_12345678" in str(caught.value)
    copied = pickle.loads(pickle.dumps(caught.value))
    assert (type(copied), vars(copied)) == (kind, vars(caught.value))


def test_a_foreign_error_answer_keeps_its_text(service: Service) -> None:
    service.answer(b"<h1>some proxy</h1>", 404)
    with _client(service) as client, pytest.raises(APIStatusError, match="some proxy") as caught:
        client.generate_module("a/b")
    assert caught.value.code == 0


@pytest.mark.parametrize(
    "body", [b"<h1>hello</h1>", b"{}", b'{"data": null}', b"[1]", b"[" * 100_000]
)
def test_an_answer_of_another_service_is_an_error_that_names_base_url(
    service: Service, body: bytes
) -> None:
    service.answer(body)
    with _client(service) as client, pytest.raises(APIConnectionError, match="base_url"):
        client.generate_module("a/b")


@pytest.mark.parametrize("url", ["ftp://x", "http://", "https://[::1", "http://a:99999"])
def test_a_base_url_that_is_not_a_url_is_refused(url: str) -> None:
    with pytest.raises(LilypadError, match="base_url"):
        LilypadClient("k", url)


def test_an_unreachable_service_is_a_connection_error(pauses: list[float]) -> None:
    with LilypadClient("k", "http://127.0.0.1:9") as client, pytest.raises(APIConnectionError):
        client.generate_module("a/b")
    assert len(pauses) == 2


def test_a_run_can_be_awaited_and_shows_its_progress(service: Service, pauses: list[float]) -> None:
    service.answer(RUN, 202)
    service.answer({**RUN, "state": "running"})
    service.answer(OVER)
    with _client(service) as client:
        job = client.benchmarks.start("a/b", batch_sizes=[1, 2])
        assert [run.state for run in job.progress()] == ["queued", "running", "succeeded"]
        assert job.wait().progress.done == 4
    (_, headers, body), *_ = service.requests
    assert headers["Prefer"] == "respond-async"
    assert json.loads(body) == {"modelId": "a/b", "batchSizes": [1, 2]}


def test_a_run_canceled_during_the_wait_is_reported_as_canceled(service: Service) -> None:
    service.answer(RUN, 202)
    service.answer({**RUN, "state": "canceled"})
    with _client(service) as client:
        job = client.benchmarks.start("a/b")
        states = []
        for run in job.progress():
            states.append(run.state)
            if run.state == "queued":
                job.cancel()
    assert states == ["queued", "canceled"]


def test_a_failed_run_raises_its_error(service: Service) -> None:
    failure = {"code": 1004, "status": 422, "message": "too large", "reason": "out_of_memory"}
    service.answer({**RUN, "state": "failed", "error": failure}, 202)
    with _client(service) as client, pytest.raises(BenchmarkError) as caught:
        client.run_benchmark("a/b")
    assert caught.value.details == {"reason": "out_of_memory", "id": "bench_1"}


def test_a_run_that_takes_too_long_is_canceled(service: Service) -> None:
    service.answer(RUN, 202)
    service.answer({**RUN, "state": "canceled"})
    with _client(service) as client, pytest.raises(JobTimeoutError, match="bench_1"):
        client.run_benchmark("a/b", wait_timeout=0)
    assert [path for path, _, _ in service.requests] == [
        "/v1/api/benchmark",
        "/v1/api/benchmark/bench_1",
    ]


async def test_a_list_is_an_asynchronous_iterator_over_all_pages(service: Service) -> None:
    service.answer({"runs": [RUN, RUN], "next": "bench_1"})
    service.answer({"runs": [OVER], "next": None})
    async with AsyncLilypadClient("k", service.url) as client:
        states = [run.state async for run in client.benchmarks.list(page_size=2)]
    assert states == ["queued", "queued", "succeeded"]
    assert service.requests[1][0] == "/v1/api/benchmark?limit=2&before=bench_1"


def test_a_redirect_is_not_mistaken_for_success(service: Service) -> None:
    service.answer(b"<html>", 301, headers={"Location": "https://elsewhere/"})
    account = ("a@example.com", "password")
    with (
        LilypadClient(base_url=service.url, account=account) as client,
        pytest.raises(APIConnectionError, match="base_url"),
    ):
        client.keys.revoke("key_1")


@pytest.mark.parametrize(
    ("content", "after", "limit"),
    [
        (b"[" * 100_000, "Mon, 01 Jan 99999999999 00:00:00 GMT", "abc"),
        (b'{"error": {"code": 2002, "message": "no", "details": [1]}}', "9" * 400, "5, 5"),
        (b'{"error": {"code": 2002, "message": "no", "details": {"a": NaN}}}', "", ""),
    ],
)
def test_a_refusal_garbled_by_a_proxy_still_raises_its_error(
    service: Service, content: bytes, after: str, limit: str
) -> None:
    service.answer(content, 429, headers={"Retry-After": after, "X-RateLimit-Limit": limit})
    with _client(service, max_retries=0) as client:
        with pytest.raises(APIStatusError) as caught:
            client.generate_module("a/b")
        assert client.last_rate_limit is None
    assert caught.value.retry_after in {None, 1e9}
    assert caught.value.details == {}


def test_a_raw_response_has_status_headers_and_the_result(service: Service) -> None:
    limit = {"X-RateLimit-Limit": "100", "X-RateLimit-Remaining": "7", "X-RateLimit-Reset": "3"}
    service.answer(MODULE, headers=limit)
    with _client(service) as client:
        answer = client.with_raw_response.generate_module("a/b")
    assert (answer.status_code, answer.request_id) == (200, "req_12345678")
    assert answer.parsed["Dockerfile"] == "FROM x\n"


def test_a_copy_of_the_client_shares_its_rate_limit(service: Service) -> None:
    headers = {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "4", "X-RateLimit-Reset": "3"}
    service.answer({"status": "success"}, headers=headers)
    with _client(service) as client:
        client.with_raw_response.metrics.record("a/b", {"latency": np.float32(8.5)})
        assert client.last_rate_limit == (5, 4, 3)
    # Numbers of NumPy are those of Python.
    assert json.loads(service.requests[0][2])["metrics"] == {"latency": 8.5}


def test_the_last_rate_limit_is_available_after_a_refusal_too(service: Service) -> None:
    limit = {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "3"}
    service.refuse(429, 2002, headers={"Retry-After": "900", **limit})
    with _client(service) as client:
        with pytest.raises(RateLimitError):
            client.generate_module("a/b")
        assert client.last_rate_limit is not None
        assert client.last_rate_limit.remaining == 0


def test_beta_methods_call_v2_with_the_beta_header(service: Service) -> None:
    service.answer(MODULE)
    with _client(service) as client:
        client.beta.generate_module("a/b")
    [(path, headers, _)] = service.requests
    assert (path, headers["X-Lilypad-Beta"]) == ("/v2/api/generate", "v2")


def test_keys_are_created_with_the_accounts_password(service: Service) -> None:
    service.refuse(401, 2001)
    client = LilypadClient(base_url=service.url, account=("a@b.c", "secret"))
    with client, pytest.raises(AuthenticationError):
        client.keys.create("laptop")
    assert service.requests[0][1]["Authorization"].startswith("Basic ")
    with _client(service) as client, pytest.raises(LilypadError, match="account="):
        client.keys.list()


def test_every_operation_of_the_api_has_a_method() -> None:
    package = Path(lilypad_client.__file__).parent
    source = "".join(path.read_text() for path in package.glob("*.py"))
    names = [name for name, value in vars(operations).items() if isinstance(value, Operation)]
    assert len(names) > 20
    assert [name for name in names if f"operations.{name}," not in source.replace(")", ",")] == []


def test_a_default_rule_can_be_muted(service: Service) -> None:
    rule = {"id": "rule_1", "origin": "default", "kind": "silence", "modelId": None}
    service.answer({**rule, "metric": None, "severity": "warning", "muted": True, "forMinutes": 0})
    with _client(service) as client:
        assert client.alerts.rules.change("rule_1", muted=True, for_minutes=5).muted
    [(path, _, body)] = service.requests
    assert path == "/v1/api/alerts/rules/rule_1"
    assert json.loads(body) == {"muted": True, "forMinutes": 5}


def test_samples_are_read_page_by_page_and_deleted_within_a_span(service: Service) -> None:
    since = datetime(2026, 1, 31, 12, tzinfo=UTC)
    page = {"modelId": "a/b", "metric": "latency", "unit": "ms"}
    for value, following in ((0.1 + 0.2, "42"), (1.0, None)):
        sample = {"timestamp": "2026-01-31T12:00:00.000001Z", "value": value}
        service.answer({**page, "samples": [sample], "next": following})
    service.answer({"deleted": 2})
    with _client(service) as client:
        samples = list(client.metrics.samples("a/b", "latency", since=since, page_size=1))
        assert client.metrics.delete_samples("a/b", since=since, until="2026-02-01").deleted == 2
    assert [(entry.value, entry.timestamp.microsecond) for entry in samples] == [
        (0.1 + 0.2, 1),
        (1.0, 1),
    ]
    queries = [dict(parse_qsl(urlsplit(path).query)) for path, _, _ in service.requests]
    assert [query.get("cursor") for query in queries] == [None, "42", None]
    assert datetime.fromisoformat(queries[1]["from"]) == since
    assert queries[2].keys() == {"modelId", "from", "to"}


def test_a_password_is_changed_with_the_old_one(service: Service) -> None:
    service.answers.append({"status": 204, "content": b""})
    with LilypadClient(base_url=service.url, account=("a@b.c", "old")) as client:
        client.account.change_password("old", "new")
    [(path, headers, body)] = service.requests
    assert (path, json.loads(body)) == (
        "/v1/api/account/password",
        {"current": "old", "new": "new"},
    )
    assert headers["Authorization"].startswith("Basic ")


def test_an_error_without_a_key_names_the_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LILYPAD_API_KEY", raising=False)
    with pytest.raises(LilypadError, match="LILYPAD_API_KEY"):
        LilypadClient()


def test_importing_the_package_imports_no_slow_module() -> None:
    slow = ("httpx2", "pydantic", "asyncio", "email", "uuid", "tempfile", "socketio", "inspect")
    code = (
        "import sys; from lilypad_client import LilypadClient;"
        f"sys.exit(' '.join(m for m in {slow} if m in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "\n")


def test_the_package_exports_exactly_its_listed_names() -> None:
    assert {getattr(lilypad_client, name).__name__ for name in lilypad_client.__all__[:-1]} == {
        *lilypad_client.__all__[:-1]
    }
    assert {*lilypad_client.__all__} <= {*dir(lilypad_client)}
    with pytest.raises(AttributeError, match="nonsense"):
        _ = lilypad_client.nonsense
