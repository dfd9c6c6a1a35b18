"""The clients' API reference, generated from docstrings: two pages of docs/reference.

Read from the source, so that nothing need be imported, and each signature stands as it is written.
"""

import ast
import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain, groupby
from pathlib import Path

CLIENTS = Path(__file__).parent
PYTHON = CLIENTS / "python" / "lilypad_client"
PYTHON_HEAD = """# Python client: reference

Methods, arguments and errors of `lilypad_client`; [recipes](../how-to/clients.md) use them.
`AsyncLilypadClient` has the same methods, awaited; its iterators are asynchronous. Results have the
fields of the API, named as Python names them. Generated from the docstrings by `make clients`.
"""
JAVASCRIPT_HEAD = """# JavaScript client: reference

Methods, options and errors of `lilypad-client`; [recipes](../how-to/clients.md) use them.
Requests and results have the fields of the API. Generated from the comments by `make clients`.
"""
# Classes that no property of the client reaches.
CLASSES = (
    *(("jobs", "Job"), ("modules", "Module"), ("realtime", "MetricUpdate")),
    *(("connection", "RateLimit"), ("resource", "RawResponse")),
)
PARTS = re.compile(r"^(Args|Returns|Raises|Yields):$", re.MULTILINE)
ARGUMENT = re.compile(r"^    (\w+): ", re.MULTILINE)
# Flows are generators inside the client; a caller gets their results.
RESULTS = (
    *((r"\bFlow\[(.*)\]$", r"\1"), (r"\bItems\[(.*)\]$", r"Iterator[\1]"), (r"\btypes\.", "")),
    *((r"\bUnpack\[(\w+)\]", r"\1"), (r"\bJob\[Any, ", "Job[")),
    (r"^NotRequired\[(.*)\]$", r"\1 = ..."),
)


@dataclass
class Entry:
    signature: str
    text: str


@dataclass
class Section:
    title: str
    text: str
    entries: list[Entry] = field(default_factory=list)
    rows: list[str] = field(default_factory=list)
    """Cells of a table or a list, unchanged."""


def python(params: str) -> str:
    """Render the Python client's page. `params` is the new content of params.py."""
    return _page(PYTHON_HEAD, chain(_python_sections(), _arguments(params)))


def javascript(node: str) -> str:
    script = CLIENTS / "javascript" / "reference.mjs"
    done = subprocess.run([node, str(script)], check=True, capture_output=True, text=True)
    sections = [
        Section(title, text, [Entry(*entry) for entry in entries])
        for title, text, entries in json.loads(done.stdout)
    ]
    return _page(JAVASCRIPT_HEAD, iter(sections))


def _page(head: str, sections: Iterator[Section]) -> str:
    lines = [head]
    for section in sections:
        lines += [f"## {section.title}\n"]
        lines += [f"{_prose(section.text)}\n"] if section.text else []
        lines += [*section.rows, ""] if section.rows else []
        for plain, entries in groupby(section.entries, lambda entry: "(" not in entry.signature):
            if plain:
                words = ((entry.signature, " ".join(entry.text.split())) for entry in entries)
                lines += [
                    *(f"- `{signature}`: {text}".removesuffix(": ") for signature, text in words),
                    "",
                ]
                continue
            for entry in entries:
                lines += [f"```text\n{entry.signature}\n```\n"]
                lines += [f"{_prose(entry.text)}\n"] if entry.text else []
    return "\n".join(lines)


def _prose(docstring: str) -> str:
    """Return a docstring's text, with its arguments as a list."""
    text, *parts = PARTS.split(docstring)
    written = [" ".join(paragraph.split()) for paragraph in text.strip().split("\n\n")]
    for title, lines in zip(parts[::2], parts[1::2], strict=True):
        items = ARGUMENT.split(lines)[1:]
        if not items:
            written.append(f"{title}: {' '.join(lines.split())}")
            continue
        rows = [
            f"- `{name}`: {' '.join(words.split())}"
            for name, words in zip(items[::2], items[1::2], strict=True)
        ]
        written += ([] if title == "Args" else [f"{title}:"]) + ["\n".join(rows)]
    return "\n\n".join(written)


def _python_sections() -> Iterator[Section]:
    client, shared = _class("client", "LilypadClient"), _class("client", "Client")
    opening = next(node for node in client.body if getattr(node, "name", "") == "__init__")
    assert isinstance(opening, ast.FunctionDef)
    signature = _signature(opening, "LilypadClient").removesuffix(" -> None")
    first = Entry(signature, _docstring(client))
    yield Section("LilypadClient", "", [first, *_methods(shared), *_methods(client)])
    yield from _resources(shared, "client")
    for module, name in CLASSES:
        definition = _class(module, name)
        yield Section(
            name, _docstring(definition), [*_methods(definition), *_attributes(definition)]
        )
    yield _errors()


def _resources(owner: ast.ClassDef, prefix: str) -> Iterator[Section]:
    """Yield a section for each property of a class that holds operations."""
    for node in owner.body:
        if isinstance(node, ast.FunctionDef) and isinstance(node.returns, ast.Subscript):
            name = ast.unparse(node.returns.value)
            module = next((path.stem for path in PYTHON.glob("*.py") if _defines(path, name)), None)
            if module is None or ast.unparse(node.returns.slice) != "Mode":
                continue
            definition = _class(module, name)
            title = f"{prefix}.{node.name}"
            yield Section(title, _docstring(definition), list(_methods(definition)))
            yield from _resources(definition, title)


def _defines(path: Path, name: str) -> bool:
    return f"\nclass {name}(Resource[Mode]" in path.read_text()


def _class(module: str, name: str) -> ast.ClassDef:
    tree = ast.parse((PYTHON / f"{module}.py").read_text())
    return next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)


def _docstring(node: ast.ClassDef | ast.FunctionDef) -> str:
    return ast.get_docstring(node) or ""


def _methods(owner: ast.ClassDef) -> Iterator[Entry]:
    for node in owner.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_") and _docstring(node):
            yield Entry(_signature(node, node.name), _docstring(node))


def _signature(function: ast.FunctionDef, name: str) -> str:
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    result = ast.unparse(function.returns) if function.returns else "None"
    if decorators & {"property", "cached_property"}:
        return _tidy(f"{name}: {result}")
    arguments = function.args
    arguments.args = arguments.args[1:]
    return f"{name}({_tidy(ast.unparse(arguments))}) -> {_tidy(result)}".replace("'", '"')


def _tidy(annotation: str) -> str:
    for pattern, written in RESULTS:
        annotation = re.sub(pattern, written, annotation)
    return annotation


def _attributes(owner: ast.ClassDef) -> Iterator[Entry]:
    """Yield the annotated fields of a class, each with the string below it."""
    for node, after in zip(owner.body, [*owner.body[1:], None], strict=True):
        if isinstance(node, ast.AnnAssign) and not ast.unparse(node.target).startswith("_"):
            docstring = after.value if isinstance(after, ast.Expr) else None
            text = str(docstring.value) if isinstance(docstring, ast.Constant) else ""
            yield Entry(f"{ast.unparse(node.target)}: {_tidy(ast.unparse(node.annotation))}", text)


def _errors() -> Section:
    tree = ast.parse((PYTHON / "errors.py").read_text())
    rows = ["| exception | code | next |", "|---|---|---|"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            code = next((ast.unparse(keyword.value) for keyword in node.keywords), "")
            advice = {
                ast.unparse(line.targets[0]): ast.literal_eval(line.value)
                for line in node.body
                if isinstance(line, ast.Assign) and isinstance(line.value, ast.Constant)
            }.get("advice", "")
            rows.append(f"| `{node.name}` | {code} | {advice} |")
    return Section("Errors", "", rows=rows)


def _arguments(params: str) -> Iterator[Section]:
    """Yield the keyword arguments that methods take as `**fields`."""
    tree = ast.parse(params)
    used = "".join(path.read_text() for path in PYTHON.glob("*.py"))
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and f"Unpack[{node.name}]" in used:
            rows = [
                f"- `{entry.signature}`: {' '.join(entry.text.split())}"
                for entry in _attributes(node)
            ]
            yield Section(node.name, _docstring(node), rows=rows)
