"""Descriptions and samples of the OpenAPI document."""

from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from clients import generate
from common.contracts import Message
from common.faults import public_names
from gateway import routes, samples
from gateway.endpoint import Endpoint

METHODS = {"get", "post", "put", "patch", "delete"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return generate.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS & {*item}:
            yield f"{method.upper()} {path}", item[method]


def test_every_field_of_every_schema_has_a_description(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    bare = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        for field, content in schema.get("properties", {}).items()
        if not content.get("description")
    ]
    assert len(schemas) > 40
    assert not bare


def test_every_operation_parameter_and_header_has_a_description(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        assert operation["summary"], name
        assert operation["description"], name
        for parameter in operation.get("parameters", []):
            assert parameter.get("description"), (name, parameter["name"])
            shown = {"example", "examples", "default", "enum", "const"} & {
                *parameter, *parameter["schema"]
            }  # fmt: skip
            assert shown or parameter["schema"]["type"] == "boolean", (name, parameter["name"])
    for name, header in document["components"]["headers"].items():
        assert header["description"], name
        assert "example" in header, name


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": document["components"]}


def test_every_body_and_answer_has_a_sample_that_follows_its_schema(
    document: dict[str, Any],
) -> None:
    for name, operation in operations(document):
        parts = {"body": operation.get("requestBody"), **operation["responses"]}
        for part, described in parts.items():
            for media_type, file in (described or {}).get("content", {}).items():
                sampled = {"example", "examples"} & {*file} or not file["schema"]
                assert sampled, (name, part, media_type)
            content = (described or {}).get("content", {}).get("application/json")
            if content is None or not content["schema"]:  # without a body
                continue
            assert "example" in content, (name, part)
            jsonschema.validate(content["example"], resolved(document, content["schema"]))


def served() -> Iterator[tuple[Endpoint, str, str]]:
    nothing: Any = Nothing()
    for endpoint in routes.endpoints(nothing, nothing, nothing, nothing):
        for version in endpoint.versions:
            yield endpoint, version, f"/{version}/api{endpoint.path}"


def test_every_sample_refusal_belongs_to_its_operation(document: dict[str, Any]) -> None:
    messages = set()
    for endpoint, version, path in served():
        operation = document["paths"][path][endpoint.method.lower()]
        refusals = {
            int(status): described["content"]["application/json"]["example"]["error"]
            for status, described in operation["responses"].items()
            if int(status) >= 400
        }
        messages.add(refusals[400]["message"])
        model = endpoint.body or endpoint.query
        for fault in refusals[400]["details"].get("fields", []):
            field = fault["path"].split(".")[0]
            assert model, path
            assert field in public_names(model) or "unknown field" in fault["message"]
        if 403 in refusals and endpoint.allows not in {None, "account"}:
            assert refusals[403]["details"] == {"scope": endpoint.allows}
        if 413 in refusals:
            assert refusals[413]["details"]["limit"] == endpoint.max_body_bytes
        if 429 in refusals:
            assert refusals[429]["details"]["policy"] == endpoint.limits[-1]
        if 401 in refusals:
            assert ("API key" in refusals[401]["message"]) == (endpoint.allows != "account")
        if version == "v2" and endpoint.allows is None:
            assert "X-Lilypad-Beta" in refusals[403]["message"]
    assert len(messages) >= 20


class Nothing:
    """A stand-in for the dependencies of handlers that are never called."""

    def __getattr__(self, _: str) -> None: ...


def kinds(attribute: str) -> dict[str, type[Message]]:
    nothing: Any = Nothing()
    models = [
        getattr(endpoint, attribute)
        for endpoint in routes.endpoints(nothing, nothing, nothing, nothing)
    ]
    return {kind.__name__: kind for kind in models if kind is not None}


def test_every_sample_body_is_accepted_and_belongs_to_an_operation() -> None:
    bodies = kinds("body")
    assert {*samples.REQUESTS} == {*bodies}
    for name, kind in bodies.items():
        kind.model_validate(samples.REQUESTS[name])


def test_every_sample_of_an_answer_has_the_fields_of_its_type() -> None:
    replies = kinds("reply")
    assert {*samples.answers()} == {*replies}
    for name, kind in replies.items():
        read = kind.model_validate(samples.answers()[name], extra="forbid")
        assert read.model_dump(mode="json", by_alias=True).keys() >= samples.answers()[name].keys()


def test_an_answer_without_data_has_a_sample_too(document: dict[str, Any]) -> None:
    answer = document["paths"]["/v1/api/account/reset"]["post"]["responses"]["202"]
    example = answer["content"]["application/json"]["example"]
    assert (example["data"], example["error"]) == (None, None)


def test_answers_with_additional_headers_declare_them(document: dict[str, Any]) -> None:
    def headers(path: str, method: str, status: str) -> set[str]:
        return {*document["paths"][path][method]["responses"][status]["headers"]}

    assert "Location" in headers("/v1/api/benchmark", "post", "202")
    assert "Location" not in headers("/v1/api/account/reset", "post", "202")
    assert "Idempotent-Replayed" in headers("/v1/api/generate", "post", "200")
    assert {"ETag", "Content-Disposition"} <= headers("/v1/api/download", "post", "200")
    assert {"RateLimit", "RateLimit-Policy"} <= headers("/v1/api/monitor", "post", "200")
    assert "Retry-After" in headers("/v1/api/monitor", "post", "429")
