"""The subset of the network's template language that our template uses.

The network renders `lilypad_module.json.tmpl` with Go's text/template over
inputs that it has encoded as JSON, quotes and all, and then parses the outcome
as JSON. Supported here: `{{ .x }}`, `{{ slice .x n }}`, `{{ if .x }}`,
`{{ else }}`, `{{ end }}`. Anything else is an error, as it should be in ours.
"""

import json
import re
from collections.abc import Iterator, Mapping

ACTION = re.compile(r"\{\{ (?:if \.(\w+)|(else)|(end)|slice \.(\w+) (\d+)|\.(\w+)) \}\}")
# Characters that Go's json.Marshal escapes, so that JSON may be embedded in HTML or a script.
GO_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class TemplateError(ValueError):
    """The template uses syntax that the network, or this renderer, does not support."""


def marshal(value: str) -> str:
    """Encode a string as Go's json.Marshal does."""
    return json.dumps(value, ensure_ascii=False).translate(GO_ESCAPES)


def render(template: str, inputs: Mapping[str, str]) -> str:
    """Render a template as the network does. Raises TemplateError."""
    values = {name: marshal(value) for name, value in inputs.items()}
    written: list[str] = []
    # For each open `if`, outermost first: whether its current branch is written.
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
    """Yield each text with the action that follows it; None after the last text."""
    at = 0
    while (begin := template.find("{{", at)) >= 0:
        action = ACTION.match(template, begin)
        if action is None:
            raise TemplateError(f"unknown action at {begin}")
        yield template[at:begin], action.groups()
        at = action.end()
    yield template[at:], None
