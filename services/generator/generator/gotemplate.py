"""The network's template rules, as far as our template uses them.

The network renders `lilypad_module.json.tmpl` with Go's text/template over
inputs that it has encoded as JSON, quotes and all, and then parses the outcome
as JSON. Supported here: `{{ .x }}`, `{{ slice .x n }}`, `{{ if .x }}`,
`{{ else }}`, `{{ end }}`. Anything else is an error, as it should be in ours.
"""

import json
import re
from collections.abc import Iterator, Mapping

ACTION = re.compile(r"\{\{ (?:if \.(\w+)|(else)|(end)|slice \.(\w+) (\d+)|\.(\w+)) \}\}")
# Go's json.Marshal writes these escaped, so that JSON may stand within HTML or a script.
GO_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class TemplateError(ValueError):
    """The template uses what the network, or this, does not know."""


def marshal(value: str) -> str:
    """A string as Go's json.Marshal writes it."""
    return json.dumps(value, ensure_ascii=False).translate(GO_ESCAPES)


def render(template: str, inputs: Mapping[str, str]) -> str:
    """The text that the network makes of a template and its inputs. Raises TemplateError."""
    values = {name: marshal(value) for name, value in inputs.items()}
    written: list[str] = []
    # Whether each open `if`, from the outermost in, lets its present branch be written.
    branches: list[bool] = []
    for text, action in _pieces(template):
        if all(branches):
            written.append(text)
        if action is None:
            break
        tested, is_else, is_end, sliced, offset, plain = action
        if tested:
            branches.append(tested in values)
        elif is_else or is_end:
            _turn(branches, is_else=bool(is_else))
        elif all(branches):
            written.append(_value(values, sliced or plain or "", offset))
    if branches:
        raise TemplateError("an if without its end")
    return "".join(written)


def _turn(branches: list[bool], *, is_else: bool) -> None:
    if not branches:
        raise TemplateError("an else or end without its if")
    was = branches.pop()
    if is_else:
        branches.append(not was)


def _value(values: Mapping[str, str], name: str, offset: str | None) -> str:
    if offset is None:
        return values.get(name, "<no value>")
    if name not in values:
        raise TemplateError(f"slice of the absent input {name}")
    return values[name][int(offset) :]


def _pieces(template: str) -> Iterator[tuple[str, tuple[str | None, ...] | None]]:
    """Text and the action after it, in turn; None after the last."""
    at = 0
    while (begin := template.find("{{", at)) >= 0:
        action = ACTION.match(template, begin)
        if action is None:
            raise TemplateError(f"unknown action at {begin}")
        yield template[at:begin], action.groups()
        at = action.end()
    yield template[at:], None
