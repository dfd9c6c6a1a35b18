"""Renderer for the subset of Go's text/template that the module's job template uses.

The network renders `lilypad_module.json.tmpl` with Go's text/template over
inputs that it has encoded as JSON, quotes and all, and then parses the outcome
as JSON. Supported here: `{{ .x }}`, `{{ slice .x n }}`, `{{ if .x }}`,
`{{ else }}`, `{{ end }}`. Anything else is an error, as it should be in ours.
What is supported follows Go to the letter, since a module is handed out on this
renderer's word: text is bytes, a number may be octal, a name is Go's.
"""

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping

NAME = r"([^\s{}().|]+)"
ACTION = re.compile(rf"\{{\{{ (?:if \.{NAME}|(else)|(end)|slice \.{NAME} ([0-9]+)|\.{NAME}) \}}\}}")
# Go reads a number with a leading zero as octal.
NUMBER = re.compile(r"0[0-7]*|[1-9][0-9]*")
# Categories that Go's unicode.IsLetter and IsDigit accept.
GO_LETTERS = frozenset(("Lu", "Ll", "Lt", "Lm", "Lo", "Nd"))
# Characters that Go's json.Marshal escapes, so that JSON may be embedded in HTML or a script.
GO_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class TemplateError(ValueError):
    """Error for template syntax that the network, or this renderer, does not support."""


def marshal(value: str) -> str:
    """Encode a string as Go's json.Marshal does."""
    return json.dumps(value, ensure_ascii=False).translate(GO_ESCAPES)


def render(template: str, inputs: Mapping[str, str]) -> str:
    """Render a template as the network does. Raises TemplateError."""
    values = {name: marshal(value) for name, value in inputs.items()}
    written: list[str] = []
    # For each open `if`, outermost first: whether its current branch is written, and whether
    # that is the branch after its `else`.
    branches: list[tuple[bool, bool]] = []
    for text, action in _pieces(template):
        taken = all(is_written for is_written, _ in branches)
        if taken:
            written.append(text)
        if action is None:
            break
        tested, is_else, is_end, sliced, offset, plain = action
        # Go parses the whole template, the branches that are not taken too.
        if (name := tested or sliced or plain) and not _is_name(name):
            raise TemplateError(f"not a name in Go: {name[:20]!r}")
        if offset and not NUMBER.fullmatch(offset):
            raise TemplateError(f"not a number in Go: {offset[:20]!r}")
        if tested:
            branches.append((tested in values, False))
        elif is_else or is_end:
            _turn(branches, is_else=bool(is_else))
        elif taken:
            written.append(_value(values, sliced or plain or "", offset))
    if branches:
        raise TemplateError("an if without its end")
    return "".join(written)


def _is_name(name: str) -> bool:
    """Whether Go reads the text after a dot as a field: letters, digits, no ASCII digit first."""
    letters = all(
        character == "_" or unicodedata.category(character) in GO_LETTERS for character in name
    )
    return letters and name[0] not in "0123456789"


def _turn(branches: list[tuple[bool, bool]], *, is_else: bool) -> None:
    if not branches:
        raise TemplateError("an else or end without its if")
    was_written, after_else = branches.pop()
    if is_else and after_else:
        raise TemplateError("a second else")
    if is_else:
        branches.append((not was_written, True))


def _value(values: Mapping[str, str], name: str, offset: str | None) -> str:
    if offset is None:
        return values.get(name, "<no value>")
    if name not in values:
        raise TemplateError(f"slice of the absent input {name}")
    content = values[name].encode()
    begin = int(offset, 8 if offset.startswith("0") else 10)
    if begin > len(content):
        raise TemplateError(f"slice of {name} past its end")
    # Half a character is read as U+FFFD by the JSON parser that gets the outcome.
    return content[begin:].decode(errors="replace")


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
