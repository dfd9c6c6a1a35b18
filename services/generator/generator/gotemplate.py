"""The network's template rules, as far as our template uses them.

The network renders `lilypad_module.json.tmpl` with Go's text/template over
inputs that it has encoded as JSON, quotes and all, and then parses the outcome
as JSON. Supported here: `{{ .x }}`, `{{ slice .x n }}`, `{{ if .x }}`,
`{{ else }}`, `{{ end }}`. Anything else is an error, as it should be in ours.
"""

import json
import re
from collections.abc import Iterator, Mapping

ACTION = re.compile(r"\{\{ (?:(if) \.(\w+)|(else)|(end)|(slice) \.(\w+) (\d+)|\.(\w+)) \}\}")
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
    open_: list[bool] = []
    for text, action in _pieces(template):
        if all(open_):
            written.append(text)
        if action is None:
            break
        keyword_if, tested, keyword_else, keyword_end, slicing, sliced, offset, plain = action
        if keyword_if:
            open_.append(tested in values)
        elif keyword_else or keyword_end:
            if not open_:
                raise TemplateError("an else or end without its if")
            was = open_.pop()
            if keyword_else:
                open_.append(not was)
        elif all(open_) and slicing:
            if sliced not in values:
                raise TemplateError(f"slice of the absent input {sliced}")
            written.append(values[sliced][int(offset or 0) :])
        elif all(open_):
            written.append(values.get(plain or "", "<no value>"))
    if open_:
        raise TemplateError("an if without its end")
    return "".join(written)


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
