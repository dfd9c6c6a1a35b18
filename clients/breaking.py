"""Detect changes of v1 that would break a client of the last release.

`openapi-released.json` is the document of that release; copy `openapi.json` over it with each
release. v2 is a beta and may change.
"""

import re
from collections.abc import Iterator
from typing import Any, Literal

Schema = dict[str, Any]
Direction = Literal["request", "answer"]
# A limit of a request may only be relaxed: to a smaller minimum, to a larger maximum.
LOWER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
UPPER = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
CODE = re.compile(r"^\| (\d{4}) \|", re.MULTILINE)


class Comparison:
    """Two versions of the OpenAPI document, with their references resolved."""

    def __init__(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        self.before, self.after = before, after
        self._seen: set[tuple[str, str, Direction]] = set()

    def changes(self) -> Iterator[str]:
        codes = [set(CODE.findall(document["info"]["description"])) for document in self._both()]
        for code in sorted(codes[0] - codes[1]):
            yield f"code {code} is no longer described"
        for path, methods in self.before["paths"].items():
            if not path.startswith("/v1/"):
                continue
            for method, operation in methods.items():
                where = f"{method.upper()} {path}"
                new = self.after["paths"].get(path, {}).get(method)
                if new is None:
                    yield f"{where}: removed"
                else:
                    yield from self._operation(operation, new, where)

    def _both(self) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.before, self.after

    def _operation(self, old: Schema, new: Schema, where: str) -> Iterator[str]:
        before, after = _parameters(old), _parameters(new)
        for name in before.keys() - after.keys():
            yield f"{where}: parameter {name} removed"
        for name, parameter in after.items():
            if name in before:
                yield from self._schema(
                    before[name]["schema"], parameter["schema"], "request", f"{where} {name}"
                )
            if parameter.get("required") and not before.get(name, {}).get("required"):
                yield f"{where}: parameter {name} is required now"
        yield from self._body(old.get("requestBody"), new.get("requestBody"), where)
        for option in old.get("security", ()):
            if option not in new.get("security", ()):
                yield f"{where}: no longer takes the credentials {', '.join(option) or 'none'}"
        yield from self._answers(old["responses"], new["responses"], where)

    def _body(self, old: Schema | None, new: Schema | None, where: str) -> Iterator[str]:
        if new is None:
            return
        if new.get("required") and not (old or {}).get("required"):
            yield f"{where}: body is required now"
        for media_type, content in (old or {"content": {}})["content"].items():
            if media_type not in new["content"]:
                yield f"{where}: no longer takes {media_type}"
                continue
            schema = new["content"][media_type]["schema"]
            yield from self._schema(content["schema"], schema, "request", f"{where} body")

    def _answers(self, old: dict[str, Schema], new: dict[str, Schema], where: str) -> Iterator[str]:
        for status in old.keys() - new.keys():
            yield f"{where}: status {status} removed"
        for status, answer in new.items():
            for media_type, content in old.get(status, {}).get("content", {}).items():
                if media_type not in answer.get("content", {}):
                    yield f"{where}: {status} is no longer {media_type}"
                    continue
                schema = answer["content"][media_type]["schema"]
                yield from self._schema(content["schema"], schema, "answer", f"{where} {status}")

    def _schema(self, old: Schema, new: Schema, direction: Direction, where: str) -> Iterator[str]:
        if "$ref" in old and "$ref" in new:
            pair = (old["$ref"], new["$ref"], direction)
            if pair in self._seen:
                return
            self._seen.add(pair)
            where = new["$ref"].rpartition("/")[2]
        old, new = _resolve(self.before, old), _resolve(self.after, new)
        kinds, new_kinds = self._kinds(self.before, old), self._kinds(self.after, new)
        if direction == "request" and "any" not in new_kinds and (lost := kinds - new_kinds):
            yield f"{where}: no longer takes {', '.join(sorted(lost))}"
        if direction == "answer" and "any" not in kinds and (added := new_kinds - kinds):
            yield f"{where}: may now be {', '.join(sorted(added))}"
        variants = self._variants(self.after, new)
        for variant in self._variants(self.before, old):
            for other in variants:
                if variant.get("type") == other.get("type"):
                    yield from self._same_kind(variant, other, direction, where)
                    break

    def _same_kind(
        self, old: Schema, new: Schema, direction: Direction, where: str
    ) -> Iterator[str]:
        if direction == "request":
            yield from _narrower(old, new, where)
        before, after = old.get("properties", {}), new.get("properties", {})
        if after or not new.get("additionalProperties"):
            for name in before.keys() - after.keys():
                yield f"{where}.{name}: removed"
        required, now_required = set(old.get("required", ())), set(new.get("required", ()))
        if direction == "request":
            for name in sorted(now_required - required):
                yield f"{where}.{name}: required now"
        else:
            for name in sorted(required - now_required):
                yield f"{where}.{name}: may be left out now"
        for name in before.keys() & after.keys():
            yield from self._schema(before[name], after[name], direction, f"{where}.{name}")
        for key, mark in (("items", "[]"), ("additionalProperties", "{}")):
            if isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
                yield from self._schema(old[key], new[key], direction, where + mark)

    def _variants(self, document: dict[str, Any], schema: Schema) -> list[Schema]:
        schema = _resolve(document, schema)
        options = schema.get("anyOf", schema.get("oneOf"))
        if options is None:
            return [schema]
        return [variant for option in options for variant in self._variants(document, option)]

    def _kinds(self, document: dict[str, Any], schema: Schema) -> set[str]:
        kinds: set[str] = set()
        for variant in self._variants(document, schema):
            kind = variant.get("type", "any")
            kinds |= set(kind) if isinstance(kind, list) else {kind}
        return kinds | {"integer"} if "number" in kinds else kinds


def changes(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a sentence per breaking change; none if every client of `before` still works."""
    return sorted(set(Comparison(before, after).changes()))


def _narrower(old: Schema, new: Schema, where: str) -> Iterator[str]:
    words, new_words = _words(old), _words(new)
    if new_words is not None and (words is None or words - new_words):
        lost = "any" if words is None else ", ".join(sorted(map(str, words - new_words)))
        yield f"{where}: no longer takes {lost}"
    for limits, sign in ((LOWER, 1), (UPPER, -1)):
        for limit in limits:
            if limit in new and (limit not in old or sign * new[limit] > sign * old[limit]):
                yield f"{where}: {limit} is {new[limit]} now"
    for rule in ("pattern", "format", "multipleOf", "uniqueItems"):
        if new.get(rule, False) not in (old.get(rule, False), False):
            yield f"{where}: {rule} is {new[rule]} now"
    if new.get("additionalProperties") is False and old.get("additionalProperties", True):
        yield f"{where}: takes no other fields now"


def _words(schema: Schema) -> set[Any] | None:
    return (
        {schema["const"]}
        if "const" in schema
        else set(schema["enum"])
        if "enum" in schema
        else None
    )


def _resolve(document: dict[str, Any], schema: Schema) -> Schema:
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return schema


def _parameters(operation: Schema) -> dict[str, Schema]:
    return {parameter["name"]: parameter for parameter in operation.get("parameters", ())}
