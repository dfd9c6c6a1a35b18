"""The API's operations as pages show them, read from the OpenAPI document that is served."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from markupsafe import Markup

from gateway.documentation import EndpointRoute
from gateway.pages import markdown
from gateway.versions import Version

Schema = dict[str, Any]
# Max depth of nested fields; deeper ones would only repeat a recursive type.
MAX_DEPTH = 4


@dataclass(frozen=True)
class Field:
    """A field of a body or of an answer; the name of a nested field is its path."""

    name: str
    kind: str
    required: bool
    description: Markup


@dataclass(frozen=True)
class Parameter:
    """A parameter, with the initial value of its form field, and its choices.

    `listed` is where the possible ids are listed, if anywhere.
    """

    name: str
    place: str
    required: bool
    description: Markup
    value: str
    choices: list[str]
    listed: str


@dataclass(frozen=True)
class OperationAnswer:
    """A successful answer."""

    status: int
    description: str
    example: Markup
    fields: list[Field]


@dataclass(frozen=True)
class Operation:
    """An operation; `allows` is a key's scope, "account" for a person, or "" for anybody."""

    name: str
    version: Version
    tag: str
    method: str
    path: str
    summary: str
    description: Markup
    allows: str
    limits: list[str]
    parameters: list[Parameter]
    body: str
    body_fields: list[Field]
    answers: list[OperationAnswer]
    errors: list[tuple[int, str, Markup]]

    @property
    def address(self) -> str:
        return f"/docs/{self.version}/{self.name}"


class Reference:
    """Operations by version and name, read on first use."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app
        self._operations: dict[str, Operation] = {}

    def by_address(self) -> dict[str, Operation]:
        if not self._operations:
            read = [*_operations(self._app)]
            self._operations = {operation.address: operation for operation in read}
        return self._operations

    def by_tag(self, version: str) -> dict[str, list[Operation]]:
        tagged: dict[str, list[Operation]] = {}
        for operation in self.by_address().values():
            if operation.version == version:
                tagged.setdefault(operation.tag, []).append(operation)
        return tagged

    def introduction(self) -> Markup:
        return _text(self._app.openapi()["info"]["description"])


def _operations(app: FastAPI) -> Iterator[Operation]:
    document = app.openapi()
    for route in app.routes:
        if isinstance(route, EndpointRoute) and route.include_in_schema:
            method = route.described.method
            yield _operation(document, route, method, document["paths"][route.path][method.lower()])


def _operation(document: Schema, route: EndpointRoute, method: str, described: Schema) -> Operation:
    body = described.get("requestBody", {}).get("content", {}).get("application/json")
    answers = [
        _answer(document, int(status), content)
        for status, content in described["responses"].items()
        if int(status) < HTTPStatus.MULTIPLE_CHOICES
    ]
    errors = [
        (int(status), HTTPStatus(int(status)).phrase, _text(content["description"]))
        for status, content in described["responses"].items()
        if int(status) >= HTTPStatus.BAD_REQUEST
    ]
    return Operation(
        name=str(route.operation_id).removesuffix(f"_{route.version}"),
        version=route.version,
        tag=route.described.tag,
        method=method,
        path=route.path,
        summary=described["summary"],
        description=_text(described.get("description", "")),
        allows=route.described.allows or "",
        limits=[*route.described.limits],
        parameters=[_parameter(route.path, row) for row in described.get("parameters", [])],
        body=json.dumps(body["example"], indent=2) if body else "",
        body_fields=[*_fields(document, body["schema"])] if body else [],
        answers=answers,
        errors=errors,
    )


def _parameter(path: str, parameter: Schema) -> Parameter:
    schema = parameter["schema"]
    choices = [str(choice) for choice in schema.get("enum", [])]
    if schema.get("type") == "boolean":
        choices = ["true", "false"]
    listed = ""
    if parameter["in"] == "path":
        listed = path.partition(f"/{{{parameter['name']}}}")[0]
    return Parameter(
        name=parameter["name"],
        place=parameter["in"],
        required=bool(parameter.get("required")),
        description=_text(parameter["description"]),
        value=str(parameter.get("example", schema.get("const", ""))),
        choices=choices,
        listed=listed,
    )


def _answer(document: Schema, status: int, response: Schema) -> OperationAnswer:
    content = response.get("content", {}).get("application/json", {})
    example, schema = content.get("example"), content.get("schema", {})
    description = response["description"]
    if description == "Successful Response":  # FastAPI's own
        description = HTTPStatus(status).phrase
    shown = markdown.highlight(json.dumps(example, indent=2), "json") if example else ""
    fields = [*_fields(document, schema)] if schema else []
    data = [field for field in fields if field.name.startswith("data.")]
    # Pygments escapes what it marks.
    return OperationAnswer(status, description, Markup(shown), data)  # noqa: S704


def _fields(document: Schema, schema: Schema, before: str = "", depth: int = 0) -> Iterator[Field]:
    schema = _plain(document, schema)
    required = schema.get("required", [])
    for name, field in schema.get("properties", {}).items():
        described = field.get("description", "")
        plain = _plain(document, field)
        yield Field(before + name, _kind(document, field), name in required, _text(described))
        inside = before + name
        while plain.get("type") == "array":
            inside += "[]"
            plain = _plain(document, plain.get("items", {}))
        if depth < MAX_DEPTH:
            yield from _fields(document, plain, f"{inside}.", depth + 1)


def _plain(document: Schema, schema: Schema) -> Schema:
    """Return the schema behind a reference; for a nullable schema, the part without null."""
    while True:
        kinds = [
            alternative
            for alternative in schema.get("anyOf", [])
            if alternative != {"type": "null"}
        ]
        if len(kinds) == 1:
            [schema] = kinds
        elif "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        else:
            return schema


def _kind(document: Schema, schema: Schema) -> str:
    if "anyOf" in schema:
        return " or ".join(_kind(document, option) for option in schema["anyOf"])
    schema = _plain(document, schema)
    if "enum" in schema:
        return " | ".join(json.dumps(option) for option in schema["enum"])
    if "const" in schema:
        return json.dumps(schema["const"])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"array of {_kind(document, schema.get('items', {}))}"
    minimum, maximum = schema.get("minimum"), schema.get("maximum")
    if minimum is not None and maximum is not None:
        return f"{kind} {minimum:g} to {maximum:g}"
    return kind


def _text(text: str) -> Markup:
    """Render the Markdown of a docstring, whose lines may be indented."""
    return markdown.render(re.sub(r"(?m)^ +", "", text), lambda link: link)
