"""Common mistakes, each sent through the edge and answered with advice."""

import base64
import socket
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest

from integration.caller import PASSWORD, Account, error_of

MODEL = "lilypad/tiny-text-classification"
GENERATE, BENCHMARK = "/v1/api/generate", "/v1/api/benchmark"
MONITOR, RECORD = "/v1/api/monitor", "/v1/api/monitor/record"
# Placeholder for the account's key in headers.
KEY = "{key}"
BEARER = {"Authorization": f"Bearer {KEY}"}
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Mistake:
    """A request, and the expected status, code and words of the answer."""

    name: str
    path: str
    status: int
    code: int
    says: tuple[str, ...]
    body: Any = None
    content: str | None = None
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=lambda: BEARER)


MISTAKES = (
    # Credentials.
    Mistake(
        "a key in X-API-Key", GENERATE, 401, 2001, ("Authorization: Bearer lmg_live_",),
        {"modelUrl": MODEL}, headers={"X-API-Key": KEY},
    ),
    Mistake(
        "a key without Bearer", GENERATE, 401, 2001, ("Authorization: Bearer lmg_live_",),
        {"modelUrl": MODEL}, headers={"Authorization": KEY},
    ),
    Mistake(
        "a key of another company", GENERATE, 401, 2001, ("lmg_live_",),
        {"modelUrl": MODEL}, headers={"Authorization": "Bearer sk-proj-0123456789abcdef"},
    ),
    Mistake(
        "a Hub token for a key", GENERATE, 401, 2001, ("lmg_live_",),
        {"modelUrl": MODEL}, headers={"Authorization": "Bearer hf_0123456789abcdefghij"},
    ),
    Mistake(
        "a key with its last characters cut off", GENERATE, 401, 2001, ("copy the whole key",),
        {"modelUrl": MODEL}, headers={"Authorization": "Bearer lmg_live_0123456789"},
    ),
    Mistake(
        "a key in quotes", GENERATE, 401, 2001, ("without quotes or brackets",),
        {"modelUrl": MODEL}, headers={"Authorization": f'Bearer "{KEY}"'},
    ),
    Mistake(
        "an empty variable for a key", GENERATE, 401, 2001, ("no API key after `Bearer`",),
        {"modelUrl": MODEL}, headers={"Authorization": "Bearer"},
    ),
    Mistake(
        "a run of nobody", f"{BENCHMARK}/bench_0", 404, 3001, ("GET /v1/api/benchmark lists",),
        method="GET",
    ),
    Mistake(
        "a key where a password belongs", "/v1/api/keys", 401, 2001,
        ("e-mail address and password", "Basic"), {"name": "laptop"},
    ),
    # Addresses of models.
    Mistake(
        "a typo in an id", GENERATE, 404, 1001, (f"did you mean `{MODEL}`?",),
        {"modelUrl": "lilypad/tiny-text-clasification"},
    ),
    Mistake(
        "the address of a data set", GENERATE, 400, 1001,
        ("a dataset", "https://huggingface.co/<owner>/<name>"),
        {"modelUrl": "https://huggingface.co/datasets/stanfordnlp/imdb"},
    ),
    Mistake(
        "an address without https://", GENERATE, 400, 1001, ("https://",),
        {"modelUrl": "huggingface.co/lilypad/tiny-text-classification"},
    ),
    Mistake(
        "an address of another site", GENERATE, 400, 1001, ("https://huggingface.co",),
        {"modelUrl": "https://github.com/lilypad/tiny-text-classification"},
    ),
    Mistake(
        "a file of a model", GENERATE, 400, 1001, ("<owner>/<name>",),
        {"modelUrl": f"https://huggingface.co/{MODEL}/blob/main/config.json"},
    ),
    # Fields and values.
    Mistake(
        "the field of another endpoint", GENERATE, 400, 1003, ("modelId", "`modelUrl`"),
        {"modelId": MODEL},
    ),
    Mistake(
        "modelUrl and model_url at once", GENERATE, 400, 1003, ("model_url", "`modelUrl`"),
        {"modelUrl": MODEL, "model_url": MODEL},
    ),
    Mistake(
        "an option beside the options", GENERATE, 400, 1003, ("batchSize", "options"),
        {"modelUrl": MODEL, "batchSize": 4},
    ),
    Mistake(
        "a batch size as text", GENERATE, 400, 1003,
        ("options.batchSize", "integer, without quotes"),
        {"modelUrl": MODEL, "options": {"batchSize": "4"}},
    ),
    Mistake(
        "memory in words", GENERATE, 400, 1003, ("options.memory", '"8GB"'),
        {"modelUrl": MODEL, "options": {"memory": "eight gigabytes"}},
    ),
    Mistake(
        "memory as a number", GENERATE, 400, 1003, ("options.memory", '"8GB"'),
        {"modelUrl": MODEL, "options": {"memory": 8}},
    ),
    Mistake(
        "gpu as text", GENERATE, 400, 1003, ("options.gpu", "true or false, without quotes"),
        {"modelUrl": MODEL, "options": {"gpu": "true"}},
    ),
    Mistake(
        "one batch size in place of a list", BENCHMARK, 400, 1003,
        ("batchSizes", "list", "[1, 2, 4, 8]"),
        {"modelId": MODEL, "batchSizes": 8},
    ),
    Mistake(
        "batch sizes as text", BENCHMARK, 400, 1003, ("batchSizes.0", "integer, without quotes"),
        {"modelId": MODEL, "batchSizes": ["1", "2"]},
    ),
    Mistake("no days", MONITOR, 400, 1003, ("days", "at least 1"), {"modelId": MODEL, "days": 0}),
    Mistake(
        "a time without a zone", RECORD, 400, 1003, ("timestamp", "no zone", "Z for UTC"),
        {"modelId": MODEL, "timestamp": "2026-11-01T12:00:00", "metrics": {"latency": 1.0}},
    ),
    Mistake(
        "a metric with a slash in its name", RECORD, 400, 1003, ("metrics", "a-z", "val_loss"),
        {"modelId": MODEL, "metrics": {"val/loss": 1.0}},
    ),
    Mistake(
        "one metric in place of a list", MONITOR, 400, 1003, ("metrics", "list", '["latency"'),
        {"modelId": MODEL, "metrics": "latency"},
    ),
    Mistake(
        "two metrics in a query", f"{MONITOR}/samples?modelId=m&metric=latency&metric=loss",
        400, 1003, ("metric: given twice", "give it once"), method="DELETE",
    ),
    *(
        Mistake(
            f"a page of {path} that never was", f"/v1/api/{path}?before={before}", 400, 1003,
            ("before:", "the `next` of the last page"), method="GET",
        )
        for path, before in (
            ("models", "no-model"), ("generations", "gen_0"), ("benchmark", "bench_0"),
            ("alerts", "alert_0"), ("usage", "gen_0"),
        )
    ),
    Mistake(
        "another service's word for the end of a span",
        f"{MONITOR}/samples?modelId=m&metric=latency&until=2026-01-31T12:00:00Z", 400, 1003,
        ("until: unknown field", "`to`"), method="GET",
    ),
    *(
        Mistake(
            f"a key for a repeated request as {name}", RECORD, 400, 1003,
            ("did you mean `Idempotency-Key`?",), {"modelId": "m", "metrics": {"latency": 1.0}},
            headers=BEARER | {name: "one"},
        )
        for name in ("X-Idempotency-Key", "Indempotency-Key", "Idempotent-Key")
    ),
    Mistake(
        "a key where an account is managed", "/v1/api/account", 401, 2001,
        ("an API key cannot", "Basic"), method="GET",
    ),
    Mistake(
        "metrics beside metrics", RECORD, 400, 1003, ("latency", "unknown field", "`metrics`"),
        {"modelId": MODEL, "latency": 12.5},
    ),
    # HTTP and JSON.
    Mistake(
        "a comma too many", GENERATE, 400, 1003, ("line 2, column", "remove the comma"),
        content='{\n  "modelUrl": "' + MODEL + '",\n}', headers=BEARER | JSON,
    ),
    Mistake(
        "single quotes", GENERATE, 400, 1003, ("line 1, column 2", "double quotes"),
        content="{'modelUrl': 'a'}", headers=BEARER | JSON,
    ),
    Mistake(
        "no body", GENERATE, 400, 1003, ("the body is empty", "JSON object"),
        content="", headers=BEARER | JSON,
    ),
    Mistake(
        "a form in place of JSON", GENERATE, 415, 1003, ("Content-Type: application/json",),
        content="modelUrl=a",
        headers=BEARER | {"Content-Type": "application/x-www-form-urlencoded"},
    ),
    Mistake(
        "a common password", "/v1/api/accounts", 400, 1003, ("password: is too easy to guess",),
        {"email": "mistake@example.com", "password": "Football1"}, headers={},
    ),
    Mistake(
        "no body and no type", GENERATE, 415, 1003,
        ("the body is empty", "Content-Type: application/json"),
    ),
    Mistake(
        "a compressed body", GENERATE, 415, 1003, ("without Content-Encoding",),
        content="{}", headers=BEARER | JSON | {"Content-Encoding": "gzip"},
    ),
    Mistake("GET for POST", GENERATE, 405, 3001, ("send POST",), method="GET"),
    *(
        Mistake(
            f"the address {path}", path, 404, 3001, (f"did you mean {near}?", "/docs"), {},
        )
        for path, near in (
            ("/v1/generate", GENERATE), ("/generate", GENERATE), (f"{GENERATE}/", GENERATE),
            ("/V1/api/generate", GENERATE), ("/v1/api/monitor/records", RECORD),
            ("/v2/api/benchmarks", "/v2/api/benchmark"),
            ("/v1/api/webhook/whk_0/test", "/v1/api/webhooks/{webhook_id}/test"),
        )
    ),
    Mistake(
        "an option in the query", f"{GENERATE}?verify=true", 400, 1003,
        ("verify:", "field of the JSON body"), {"modelUrl": MODEL},
    ),
    Mistake(
        "a filter where there is none", "/v1/api/webhooks?state=failed", 400, 1003,
        ("state:", "leave it out"), method="GET",
    ),
    Mistake(
        "v2 without opting in", "/v2/api/generate", 403, 2003, ("X-Lilypad-Beta: v2",),
        {"modelUrl": MODEL},
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def caller(generous_stack: Any) -> Any:
    made = Account(generous_stack.url)
    yield made
    made.http.close()


def send(caller: Account, mistake: Mistake) -> httpx2.Response:
    headers = {name: value.format(key=caller.key) for name, value in mistake.headers.items()}
    options: dict[str, Any] = {"json": mistake.body} if mistake.body is not None else {}
    if mistake.content is not None:
        options["content"] = mistake.content
    return caller.http.request(mistake.method, mistake.path, headers=headers, **options)


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.name)
def test_a_mistake_is_answered_with_advice(caller: Account, mistake: Mistake) -> None:
    answer = send(caller, mistake)
    error = error_of(answer)
    assert (answer.status_code, error["code"]) == (mistake.status, mistake.code), error
    missing = [words for words in mistake.says if words not in error["message"]]
    assert not missing, error["message"]
    assert caller.key not in answer.text


def test_a_key_without_a_scope_is_refused_with_the_missing_scopes_name(caller: Account) -> None:
    narrow = caller.make_key("narrow", scopes=["monitor:read"])["key"]
    answer = caller.http.post(
        GENERATE, json={"modelUrl": MODEL}, headers={"Authorization": f"Bearer {narrow}"}
    )
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["details"]) == (
        403,
        2003,
        {"scope": "generate"},
    )
    assert "`generate`" in error["message"]
    assert "add" in error["message"]


def test_a_session_or_password_in_place_of_a_key_is_refused_with_advice(caller: Account) -> None:
    basic = base64.b64encode(f"{caller.email}:{PASSWORD}".encode()).decode()
    answer = caller.http.post(
        GENERATE, json={"modelUrl": MODEL}, headers={"Authorization": f"Basic {basic}"}
    )
    assert answer.status_code == 401
    assert "Authorization: Bearer lmg_live_" in error_of(answer)["message"]
    assert PASSWORD not in answer.text


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("Authorization", (BEARER["Authorization"], "Bearer lmg_live_other")),
        ("Content-Type", ("application/json", "text/plain")),
        ("Idempotency-Key", ("one", "two")),
        ("Prefer", ("respond-async", "wait=5")),
        ("X-Lilypad-Beta", ("v2", "v3")),
        ("X-Lilypad-Code", ("123456", "654321")),
        ("Origin", ("{url}", "https://example.com")),
        ("Content-Length", ("{length}", "1")),
        ("Host", ("localhost", "example.com")),
        ("X-Request-Id", ("first-request", "second-request")),
        # Two identical values look like a list, which no client sends.
        ("Authorization", (BEARER["Authorization"], BEARER["Authorization"])),
    ],
)
def test_a_single_value_header_is_refused_with_two_values(
    caller: Account, name: str, values: tuple[str, str]
) -> None:
    body = b'{"modelId": "m", "metrics": {"latency": 1.0}}'
    sent = {"Content-Type": "application/json", "Content-Length": "{length}", "Host": "localhost"}
    lines = [(key, value) for key, value in {**sent, **BEARER}.items() if key != name]
    lines += [(name, value) for value in values]
    head = "".join(f"{key}: {value}\r\n" for key, value in lines)
    address = caller.http.base_url
    head = head.replace("{length}", str(len(body))).replace(KEY, caller.key)
    head = head.replace("{url}", str(address).rstrip("/"))
    with socket.create_connection((address.host, address.port), 60) as connection:
        request = f"POST {RECORD} HTTP/1.1\r\n{head}Connection: close\r\n\r\n".encode()
        connection.sendall(request + body)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    assert b'"code":1003' in answer.replace(b" ", b"")
    if name != "Content-Length":  # which the edge refuses itself
        assert f"{name}: sent twice".encode() in answer
        assert b"first-request" not in answer


def test_a_misspelt_id_is_refused_with_the_nearest_one_also_with_a_hub_token(
    caller: Account,
) -> None:
    owner = Account(str(caller.http.base_url).rstrip("/"))
    stored = owner.http.put(
        "/v1/api/account/hub-token", json={"token": "hf_stranger"}, auth=(owner.email, PASSWORD)
    )
    assert stored.status_code == 200, stored.text
    error = error_of(owner.generate("lilypad/tiny-text-clasification"))
    owner.http.close()
    assert f"your Hub token has no access to it; did you mean `{MODEL}`?" in error["message"]


def test_a_model_without_metrics_is_refused_with_the_nearest_recorded_model(
    caller: Account,
) -> None:
    caller.post(RECORD, {"modelId": MODEL, "metrics": {"latency": 1.0}})
    for prefix in ("", "https://huggingface.co/"):
        wrong = {"modelId": f"{prefix}lilypad/tiny-text-clasification"}
        error = error_of(caller.post(MONITOR, wrong))
        assert error["code"] == 3001, error
        assert f"did you mean `{MODEL}`?" in error["message"]


def test_a_placeholder_pasted_as_an_id_is_refused_as_a_missing_id(
    caller: Account,
) -> None:
    """People paste paths from the reference, `{id}` included."""
    document = caller.http.get("/openapi.json").json()
    accepted = {}
    for path, item in document["paths"].items():
        for method, operation in item.items():
            if "{" not in path or not path.startswith("/v1/"):
                continue
            with_key = {"key": []} in operation["security"]
            content = operation.get("requestBody", {}).get("content")
            answer = caller.http.request(
                method,
                path,
                headers=caller.headers if with_key else {},
                auth=None if with_key else (caller.email, PASSWORD),
                json=content and content["application/json"]["example"],
            )
            if answer.status_code != 404:
                accepted[method, path] = answer.text
    assert accepted == {}


def test_a_memory_size_with_a_space_is_accepted(caller: Account) -> None:
    answer = caller.generate(MODEL, options={"memory": "8 GB"})
    assert answer.status_code == 200, answer.text
    assert "8 GB" not in answer.json()["data"]["files"]["lilypad_module.json.tmpl"]


def test_the_sample_errors_in_openapi_match_the_real_ones(caller: Account) -> None:
    narrow = caller.make_key("narrow", scopes=["monitor:read"])["key"]
    body = {"modelUrl": 1}
    answers = [
        caller.post(GENERATE, body),
        caller.http.post(GENERATE, json=body),
        caller.post(GENERATE, body, headers={"Authorization": f"Bearer {narrow}"}),
        caller.http.post(GENERATE, content="a=b", headers=caller.headers),
        caller.http.post(GENERATE, content=" " * 100_001, headers=caller.headers | JSON),
        caller.post(GENERATE, {"modelUrl": "lilypad/tiny-pickle"}),
    ]
    document = caller.http.get("/openapi.json").json()
    shown = document["paths"][GENERATE]["post"]["responses"]
    for answer, status in zip(answers, (400, 401, 403, 415, 413, 422), strict=True):
        assert answer.status_code == status, answer.text
        sample = shown[str(status)]["content"]["application/json"]["example"]["error"]
        assert error_of(answer) == sample
