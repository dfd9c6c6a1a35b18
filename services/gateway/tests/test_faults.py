"""Refusals of bodies: each rule of each public model, in our own words."""

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import BaseModel, ValidationError

from common.contracts.alerts import NewRule
from common.contracts.reading import SamplesRequest
from common.contracts.recording import MetricDescription, Record
from common.errors import InvalidRequest
from common.faults import WORDS, invalid
from common.testing import MemoryBus
from gateway import bodies, routes
from gateway.account_fields import NewAccount
from gateway.keyring import KeyChange, NewKey

from .conftest import Desk

Path = tuple[str | int, ...]
# Values to send: an example, the bound, or the known names.
EXAMPLE = re.compile(r'such as|for example|"|`|true or false|[0-9]')
WRONG: dict[str, Any] = {
    "string": 7, "integer": "7", "number": "7.5", "boolean": "true", "array": "x", "object": "x",
}  # fmt: skip


def message_classes() -> list[type[BaseModel]]:
    """Return the message classes of all endpoints' bodies and queries; no handler is called."""
    parts = dict.fromkeys(("accounts", "sessions", "recovery", "deletion"))
    bus, anything = MemoryBus(), cast("Any", SimpleNamespace(**parts))
    endpoints = routes.endpoints(bus, anything, anything, anything)
    models = [model for each in endpoints for model in (each.body, each.query) if model is not None]
    return list(dict.fromkeys(models))


def branch(schema: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema with its reference resolved and the alternative of null left out."""
    if "$ref" in schema:
        return branch(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    for option in schema.get("anyOf", []):
        if option != {"type": "null"}:
            return {**schema, **branch(option, definitions)}
    return schema


def good(schema: dict[str, Any], definitions: dict[str, Any]) -> Any:
    """Return a valid value of the schema."""
    schema = branch(schema, definitions)
    if schema.get("type") == "object" and "properties" in schema:
        return {
            name: good(schema["properties"][name], definitions)
            for name in schema.get("required", [])
        }
    if schema.get("examples"):
        return schema["examples"][0]
    if "enum" in schema:
        return schema["enum"][0]
    if schema.get("type") == "array":
        return [good(schema["items"], definitions)]
    return {"integer": schema.get("minimum", 1), "number": 1.0, "boolean": True}.get(
        schema.get("type", ""), "x"
    )


def faults(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, Path, Any]]:
    """Yield each rule of a schema, where it applies, and a value that breaks it."""
    schema = branch(schema, definitions)
    for rule, value in own_faults(schema, definitions):
        yield rule, (), value
    below: dict[str | int, dict[str, Any]] = dict(schema.get("properties", {}))
    if "items" in schema:
        below[0] = schema["items"]
    for values in schema.get("patternProperties", {}).values():
        yield "propertyNames", ("val/loss",), 1.0
        below["m"] = values
    if "properties" in schema:
        yield "unknown", ("colour",), "x"
    for name in schema.get("required", []):
        yield "required", (name,), ...
    for head, inner in below.items():
        for rule, path, value in faults(inner, definitions):
            yield rule, (head, *path), value


def own_faults(schema: dict[str, Any], definitions: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    if "enum" in schema or "const" in schema:
        yield "enum", "no such word"
    elif schema.get("type") in WRONG:
        yield "type", WRONG[schema["type"]]
    for rule, value in (
        ("minimum", lambda bound: bound - abs(bound) - 1),
        ("maximum", lambda bound: bound * 2 + 1),
        ("exclusiveMinimum", lambda bound: bound),
        ("exclusiveMaximum", lambda bound: bound),
        ("minLength", lambda bound: "x" * (bound - 1)),
        ("maxLength", lambda bound: "x" * (bound + 1)),
        ("pattern", lambda _: "\x01?"),
        ("minItems", lambda bound: [good(schema["items"], definitions)] * (bound - 1)),
        ("maxItems", lambda bound: [good(schema["items"], definitions)] * (bound + 1)),
        ("minProperties", lambda _: {}),
        ("maxProperties", lambda bound: {f"m{n}": 1.0 for n in range(bound + 1)}),
    ):
        if rule in schema:
            yield rule, value(schema[rule])
    if schema.get("format") == "date-time":
        yield "format", "yesterday"
        yield "zone", "2026-01-31T12:00:00"


def broken(body: Any, schema: dict[str, Any], path: Path, value: Any, defs: dict[str, Any]) -> Any:
    """Return the body with one value replaced, or removed if `value` is `...`."""
    if not path:
        return value
    schema = branch(schema, defs)
    head, rest = path[0], path[1:]
    if isinstance(head, int):
        return [broken(good(schema["items"], defs), schema["items"], rest, value, defs)]
    inner = schema.get("properties", {}).get(head, {})
    body = dict(body) if isinstance(body, dict) else {}
    if value is ... and not rest:
        body.pop(head, None)
    else:
        below = body.get(head, good(inner, defs) if rest else None)
        body[head] = broken(below, inner, rest, value, defs)
    return body


def test_a_breach_of_each_rule_of_each_public_model_is_refused_in_our_own_words() -> None:
    walked = set()
    models = message_classes()
    assert len(models) >= 10
    for model in models:
        schema = model.model_json_schema()
        defs = schema.get("$defs", {})
        strict = model.model_config.get("extra") == "forbid"
        for rule, path, value in faults(schema, defs):
            # Query parameters are text, and converted to their type.
            sent = [value] if rule == "type" and not strict else value
            body = broken(good(schema, defs), schema, path, sent, defs)
            where = f"{model.__name__}: {rule} at {path}: {body}"[:300]
            with pytest.raises(ValidationError) as caught:
                model.model_validate_json(json.dumps(body), extra="forbid")
            own = invalid(caught.value, model).details["fields"]
            raw = caught.value.errors()
            assert {fault["type"] for fault in raw} <= {*WORDS, "extra_forbidden"}, where
            for message, fault in zip(own, raw, strict=True):
                hinted = fault["type"] == "hint"
                assert message["message"], where
                assert hinted or message["message"] != fault["msg"], f"{where}: {fault}"
                assert "Value error" not in message["message"], where
                assert EXAMPLE.search(message["message"]), f"{where}: {message}"
            walked.add(rule)
    assert walked >= {
        "type", "enum", "required", "unknown", "minimum", "maximum", "exclusiveMinimum",
        "minLength", "maxLength", "pattern", "minItems", "maxItems", "propertyNames",
        "minProperties", "maxProperties", "format", "zone", "exclusiveMaximum",
    }, walked  # fmt: skip


def test_each_public_name_is_the_camel_case_of_its_field() -> None:
    for model in message_classes():
        for name, field in model.model_fields.items():
            public = (field.alias or name).lower()
            assert name.replace("_", "") == public, f"{model.__name__}.{name} is {field.alias}"


@pytest.mark.parametrize(
    ("sent", "known"),
    [("until", "to"), ("since", "from"), ("end", "to"), ("model", "modelId"), ("met", "metric")],
)
def test_the_refusal_of_an_unknown_field_names_the_nearest_one(sent: str, known: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{sent}: unknown field; did you mean `{known}`"):
        bodies.parse_query(f"modelId=m&metric=loss&{sent}=x".encode(), SamplesRequest)


def refused(body: bytes, model: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        bodies.parse(body, model)
    return caught.value


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", "the body is empty"),
        (b" \n", "the body is empty"),
        (b'{"name": "x",\n "scopes": [],}', "line 2, column"),
        (b'{"name": "x",}', "remove the comma before the closing bracket"),
        (b'{"name": "x", scopes: []}', "line 1, column 15: expecting a key in double"),
        (b'{"name": "x", // a key\n}', "JSON has no comments"),
        (b"name=x", "line 1, column 1: expecting a value: a string in double quotes"),
        (b'{"name": "x"} {}', "line 1, column 15: nothing may follow the first JSON value"),
        (b'\xef\xbb\xbf{"name": "x"}', "line 1, column 1: leave out the byte-order mark"),
        (b'{"name": "x', "line 1, column 10: the string that begins here has no closing quote"),
        (b'{"name": "x" "scopes": []}', "expecting a comma or a closing bracket"),
        (b'{"name": "x\ny"}', "write line breaks and other control characters in a string as"),
        (b'{"name": "\\d"}', "write a backslash in a string as two"),
        (b'{"name": "x", "scopes": "generate"}', 'square brackets; for example ["monitor:read"]'),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b'{"nam": "x"}', "did you mean `name`?"),
        (b'{"name": "x", "expires_On": "x"}', "did you mean `expiresAt`?"),
        (b'{"name": "x", "colour": "x"}', "the fields are `name`, `scopes`, `expiresAt`"),
        (b"{}", 'name: required and missing; for example "laptop"'),
        (b"[1]", "the request must be a JSON object"),
    ],
)
def test_an_invalid_body_is_refused_with_its_fault_and_what_to_send(
    body: bytes, expected: str
) -> None:
    error = refused(body, NewKey)
    messages = [error.message, *(field["message"] for field in error.details.get("fields", []))]
    assert any(expected in sentence for sentence in messages), messages


@pytest.mark.parametrize("name", ["\u3164", " \u00a0\u2800", "\u200b\ufe0f", "\u3000 \U000e0041"])
@pytest.mark.parametrize(
    ("path", "model", "rest"),
    [
        ("name", NewKey, {"scopes": ["generate"]}),
        ("name", KeyChange, {}),
        ("modelId", Record, {"metrics": {"latency": 1.0}}),
        ("modelId", NewRule, {"kind": "silence"}),
        ("unit", MetricDescription, {}),
    ],
)
def test_a_name_that_nobody_can_see_is_refused(
    path: str, model: Any, rest: dict[str, Any], name: str
) -> None:
    error = refused(json.dumps({**rest, path: name}).encode(), model)
    [fault] = error.details["fields"]
    assert fault["path"] == path
    if path != "unit" or name == "\u3164":
        assert fault["message"] == "must hold at least one visible character"


@pytest.mark.parametrize("mark", ["\u202e", "\u2066", "\u200f", "\u200b", "\ufeff", "\U000e0041"])
@pytest.mark.parametrize(
    ("path", "model", "name", "rest"),
    [
        ("name", NewKey, "laptop", {"scopes": ["generate"]}),
        ("name", KeyChange, "laptop", {}),
        ("email", NewAccount, "me@example.com", {"password": "correct horse"}),
        ("unit", MetricDescription, "tokens", {}),
        ("modelId", Record, "gpt2", {"metrics": {"latency": 1.0}}),
        ("modelId", NewRule, "gpt2", {"kind": "silence"}),
    ],
)
def test_a_name_with_an_invisible_or_text_direction_character_is_refused(
    path: str, model: Any, name: str, rest: dict[str, Any], mark: str
) -> None:
    marked = json.dumps({**rest, path: f"{name[:2]}{mark}{name[2:]}"}).encode()
    if path == "modelId" and mark not in "\u202e\u2066\u200f":
        # Programs recorded such names before, and go on.
        assert bodies.parse(marked, model)
        return
    [fault] = refused(marked, model).details["fields"]
    assert fault["path"] == path
    emoji = "\U0001f469\U0001f3fd\u200d\U0001f4bb"
    assert bodies.parse(json.dumps({**rest, path: emoji + name}).encode(), model)


def test_a_refusal_quotes_no_value_of_the_request() -> None:
    error = refused(b'{"email": "hunter2", "password": "hunter2"}', NewAccount)
    assert "hunter2" not in json.dumps(error.to_wire())


async def test_a_wrong_method_is_refused_with_the_allowed_ones(desk: Desk) -> None:
    async with desk.http() as http:
        answer = await http.get("/v1/api/echo")
    assert answer.status_code == 405
    assert answer.json()["error"]["message"] == "GET is not allowed at this address; send POST"
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("text/html;q=0.1, application/json", "application/json"),
        ("application/json;q=0.5, text/html", "text/html"),
        ("text/html;q=0", "application/json"),
        ("text/html;q=x", "application/json"),
        ("*/*", "application/json"),
    ],
)
async def test_the_weights_of_accept_choose_between_a_page_and_json(
    desk: Desk, accept: str, kind: str
) -> None:
    async with desk.http() as http:
        answer = await http.get("/nothing", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(kind)


async def test_an_unknown_path_is_a_page_for_a_browser_and_json_for_a_program(
    desk: Desk,
) -> None:
    page = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    async with desk.http() as http:
        for path, status in (("/nothing", 404), ("/v1/api/nothing", 404), ("/v1/api/echo", 405)):
            shown = await http.get(path, headers=page)
            assert (shown.status_code, shown.headers["content-type"][:9]) == (status, "text/html")
            assert '<main id="content"' in shown.text
            assert shown.headers["x-request-id"]
            plain = await http.get(path)
            assert (plain.status_code, plain.headers["content-type"]) == (
                status,
                "application/json",
            )
