"""The parameters and attributes that docstrings list, compared with the code."""

import ast
import re
from collections.abc import Iterator

import pytest

from documents.tables import ROOT
from documents.test_sources import committed

SECTION = re.compile(r"^(?:Args|Attributes):\n((?: .*\n|\n)+)", re.MULTILINE)
LISTED = re.compile(r"^    (\w+(?:, \w+)*):", re.MULTILINE)
Documented = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def listed(node: Documented) -> set[str]:
    """Return the names that the sections of a docstring list."""
    sections = SECTION.findall((ast.get_docstring(node) or "") + "\n")
    return {name for names in LISTED.findall("".join(sections)) for name in names.split(", ")}


def names_in(node: Documented) -> Iterator[str]:
    """Yield the parameters of a function, or the names that a class defines or assigns."""
    for part in ast.walk(node):
        match part:
            case ast.arg(arg=name) | ast.FunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) if isinstance(node, ast.ClassDef):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()) if isinstance(node, ast.ClassDef):
                yield name


def missing(source: str) -> list[str]:
    """Return the names in docstrings that neither a parameter nor an attribute has."""
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, Documented)]
    return [name for node in nodes for name in sorted(listed(node) - {*names_in(node)})]


def test_docstrings_list_only_parameters_and_attributes_that_exist() -> None:
    sources = {path: (ROOT / path).read_text() for path in committed("*.py")}
    assert sum(map(len, map(LISTED.findall, sources.values()))) > 200
    assert {path: names for path, text in sources.items() if (names := missing(text))} == {}


@pytest.mark.parametrize(
    "source",
    [
        'def f(a):\n    """F.\n\n    Args:\n        a, b: both.\n    """',
        'class C:\n    """C.\n\n    Attributes:\n        b: one.\n    """\n\n    a: int = 1',
    ],
)
def test_a_name_that_is_not_there_is_found(source: str) -> None:
    assert missing(source) == ["b"]
