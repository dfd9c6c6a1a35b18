"""Rules for source files: length, first lines of docstrings, shared constants, dependencies."""

import ast
import functools
import re
import subprocess
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from documents.tables import ROOT

MAX_LINES = 400
GENERATED = {
    "docs/reference/client-javascript.md",
    "docs/reference/client-python.md",
    "clients/javascript/src/schema.ts",
    "clients/python/lilypad_client/operations.py",
    "clients/python/lilypad_client/types.py",
}
# Longer files written by hand, and the reason for each.
LONG = {
    "deploy/envoy/envoy.yaml": "Envoy reads one file, and its anchors end with it: decision 017",
}
KINDS = (
    "*.py", "*.js", "*.mjs", "*.ts", "*.css", "*.html", "*.sql", "*.sh", "*.yaml", "*.conf",
    "*.toml", "docs/*.md", "README.md", "DESIGN.md", "Makefile",
)  # fmt: skip
# Numbers that several packages need, and the only file that may define each.
CONSTANTS = {
    r"^\w*(?:EPOCH|epoch)\w* = datetime\(2000,": "libs/common/common/contracts/timestamps.py",
    r"^(?:\w+, )*_?(?:MIB|MEBIBYTE)(?:, \w+)* = ": "libs/models/models/dtypes.py",
}
# Words that open half a sentence, in place of a verb or a noun.
FRAGMENT = re.compile(r"(?:What|Where|Who|Whom|How|Else|As|Because|Since|Than|That|Which)\b")
# Dependencies that no module imports, and the reason for each.
UNIMPORTED = {
    "gateway": {"httptools": "uvicorn's parser"},
    "realtime": {"httptools": "uvicorn's parser"},
    "benchmarker": dict.fromkeys(
        ("accelerate", "ftfy", "pandas", "protobuf", "sacremoses", "safetensors"),
        "imported by the libraries that load models, or by generated modules",
    )
    | dict.fromkeys(("sentencepiece", "soundfile"), "imported by generated modules"),
}


def committed(*kinds: str) -> list[str]:
    """Return the paths of the committed files of these kinds."""
    listed = subprocess.run(
        ["git", "ls-files", *kinds], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [path for path in listed.stdout.splitlines() if (ROOT / path).is_file()]


def test_no_source_file_is_longer_than_400_lines() -> None:
    lengths = {path: len((ROOT / path).read_text().splitlines()) for path in committed(*KINDS)}
    assert len(lengths) > 700
    assert lengths.keys() >= GENERATED
    long = {path: length for path, length in lengths.items() if length > MAX_LINES}
    assert long.keys() - GENERATED == LONG.keys(), long


def first_lines(path: str) -> list[str]:
    """Return the first line of each docstring of a module."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [
        text.partition("\n")[0]
        for node in ast.walk(ast.parse((ROOT / path).read_text()))
        if isinstance(node, documented) and (text := ast.get_docstring(node))
    ]


def test_no_docstring_opens_with_a_fragment() -> None:
    lines = {path: first_lines(path) for path in committed("*.py")}
    assert sum(map(len, lines.values())) > 3000
    wrong = [(path, line) for path in lines for line in lines[path] if FRAGMENT.match(line)]
    assert wrong == []


@pytest.mark.parametrize("pattern", CONSTANTS)
def test_a_shared_constant_is_defined_in_one_file(pattern: str) -> None:
    definition = re.compile(pattern, re.MULTILINE)
    files = [path for path in committed("*.py") if definition.search((ROOT / path).read_text())]
    assert files == [CONSTANTS[pattern]]


def imported(folder: Path) -> set[str]:
    """Return the top-level modules that a package's own code imports."""
    modules: set[str] = set()
    for path in folder.rglob("*.py"):
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Import(names=names):
                    modules |= {name.name.partition(".")[0] for name in names}
                case ast.ImportFrom(module=str() as module, level=0):
                    modules.add(module.partition(".")[0])
    return modules


@functools.cache
def distributions() -> dict[str, list[str]]:
    """Map each top-level module of this environment to the distributions that provide it."""
    return dict(packages_distributions())


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("path", committed("libs/*/pyproject.toml", "services/*/pyproject.toml"))
def test_every_dependency_is_imported(path: str) -> None:
    folder = (ROOT / path).parent
    project = tomllib.loads((ROOT / path).read_text())["project"]
    extras = project.get("optional-dependencies", {}).values()
    required = [*project["dependencies"], *(name for extra in extras for name in extra)]
    declared = {canonical(re.split(r"[\[<>=~! ]", name)[0]) for name in required}
    used = {
        canonical(name)
        for module in imported(folder / folder.name)
        for name in distributions().get(module, ())
    }
    assert declared - used == UNIMPORTED.get(folder.name, {}).keys()


# Endless work that is started as a task of its own, and why that cannot end unseen.
ENDLESS = {
    "libs/common/common/background.py": "the one mechanism: its users are told, or try again",
    "libs/common/common/watchdog.py": "the process ends when it does",
    "services/benchmarker/benchmarker/worker/__main__.py": "the worker ends with any of its tasks",
}


def endless_tasks(path: Path) -> list[str]:
    """Return the endless works that a file starts as tasks by itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    endless = {
        function.name
        for function in ast.walk(tree)
        if isinstance(function, ast.AsyncFunctionDef)
        for loop in ast.walk(function)
        if isinstance(loop, ast.While) and isinstance(loop.test, ast.Constant)
    }
    return [
        ast.unparse(call)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith((".create_task", ".ensure_future"))
        and (
            "Repeated(" in ast.unparse(call)
            or any(f"{name}(" in ast.unparse(call.args[0]) for name in endless)
        )
    ]


def test_endless_work_is_started_only_where_its_end_is_seen() -> None:
    """Otherwise an unforeseen error would end it for good, without a line in the log."""
    found = {
        str(path.relative_to(ROOT)): tasks
        for root in ("libs", "services")
        for path in (ROOT / root).rglob("*.py")
        if not {"tests", "templates", "scripts"} & {*path.parts} and (tasks := endless_tasks(path))
    }
    assert set(found) == set(ENDLESS), found
