"""The clients' generated files and v1, compared with the API and the last release."""

import copy
import json
import re
from typing import Any

import pytest

from clients import breaking, generate
from lilypad_client import APIStatusError


@pytest.fixture(scope="module")
def generated() -> dict[str, tuple[str, str]]:
    """Map every generated file to its expected and its actual content."""
    return {path.name: (text, path.read_text()) for path, text in generate.generated().items()}


@pytest.fixture
def document() -> dict[str, Any]:
    return json.loads(generate.DOCUMENT.read_text())


@pytest.mark.parametrize(
    "name",
    [
        *("openapi.json", "types.py", "params.py", "operations.py", "schemas.json"),
        *("operations.ts", "schema.ts", "client-python.md", "client-javascript.md"),
    ],
)
def test_a_generated_file_is_current(generated: dict[str, tuple[str, str]], name: str) -> None:
    assert name in generated, "the packages of clients/javascript are missing: npm install there"
    expected, actual = generated[name]
    assert actual == expected, f"{name} is out of date: run `make clients`"


def test_v1_breaks_no_client_of_the_last_release(document: dict[str, Any]) -> None:
    released = json.loads((generate.HERE / "openapi-released.json").read_text())
    assert breaking.changes(released, document) == []


def test_both_clients_have_an_error_for_each_code_of_the_api(document: dict[str, Any]) -> None:
    codes = {*map(int, breaking.CODE.findall(document["info"]["description"]))}
    script = (generate.JAVASCRIPT / "src" / "errors.ts").read_text()
    assert codes == {*APIStatusError.by_code}
    assert codes == {*map(int, re.findall(r"^  (\d{4}): \w+,$", script, re.MULTILINE))}


def _path(document: dict[str, Any], path: str, method: str) -> dict[str, Any]:
    return document["paths"][path][method]


def _schema(document: dict[str, Any], name: str) -> dict[str, Any]:
    return document["components"]["schemas"][name]


BREAKING = {
    "DELETE /v1/api/keys/{key_id}: removed": lambda d: d["paths"]["/v1/api/keys/{key_id}"].pop(
        "delete"
    ),
    "Run.state: removed": lambda d: _schema(d, "Run")["properties"].pop("state"),
    "Run.commit: may now be null": lambda d: _schema(d, "Run")["properties"].update(
        commit={"anyOf": [{"type": "string"}, {"type": "null"}]}
    ),
    "Run.id: may be left out now": lambda d: _schema(d, "Run")["required"].remove("id"),
    "BenchmarkRequest.iterations: maximum is 5 now": lambda d: _schema(d, "BenchmarkRequest")[
        "properties"
    ]["iterations"].update(maximum=5),
    "BenchmarkRequest.device: no longer takes cuda": lambda d: _schema(d, "BenchmarkRequest")[
        "properties"
    ]["device"].update(enum=["auto", "cpu"]),
    "BenchmarkRequest.seed: required now": lambda d: _schema(d, "BenchmarkRequest")[
        "required"
    ].append("seed"),
    "BenchmarkRequest.seed: no longer takes integer": lambda d: _schema(d, "BenchmarkRequest")[
        "properties"
    ].update(seed={"type": "string"}),
    "GET /v1/api/benchmark: parameter limit removed": lambda d: _path(
        d, "/v1/api/benchmark", "get"
    )["parameters"].pop(0),
    "POST /v1/api/generate: parameter Prefer is required now": lambda d: next(
        one for one in _path(d, "/v1/api/generate", "post")["parameters"] if one["name"] == "Prefer"
    ).update(required=True),
    "POST /v1/api/monitor: no longer takes application/json": lambda d: _path(
        d, "/v1/api/monitor", "post"
    )["requestBody"].update(content={"text/plain": {"schema": {}}}),
    "GET /v1/api/account: no longer takes the credentials password": lambda d: _path(
        d, "/v1/api/account", "get"
    ).update(security=[{"session": []}]),
    "Record.modelId: format is uuid now": lambda d: _schema(d, "Record")["properties"][
        "modelId"
    ].update(format="uuid"),
    "Record.metrics: takes no other fields now": lambda d: _schema(d, "Record")["properties"][
        "metrics"
    ].update(additionalProperties=False),
    "code 1004 is no longer described": lambda d: d["info"].update(
        description=d["info"]["description"].replace("| 1004 |", "")
    ),
}


@pytest.mark.parametrize("change", BREAKING)
def test_a_breaking_change_is_named(document: dict[str, Any], change: str) -> None:
    changed = copy.deepcopy(document)
    BREAKING[change](changed)
    assert change in breaking.changes(document, changed)


def test_an_addition_is_not_a_breaking_change(document: dict[str, Any]) -> None:
    changed = copy.deepcopy(document)
    _schema(changed, "Run")["properties"]["extra"] = {"type": "string"}
    _schema(changed, "BenchmarkRequest")["properties"]["extra"] = {"type": "string"}
    _schema(changed, "BenchmarkRequest")["properties"]["device"]["enum"].append("tpu")
    changed["paths"]["/v1/api/extra"] = {}
    del changed["paths"]["/v2/api/keys"]
    assert breaking.changes(document, changed) == []
