"""docs/reference/settings.md, compared with settings classes and variables in the code."""

import ast
import importlib
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from common.settings import ServiceSettings
from documents.tables import ROOT, codes, rows, sections

PAGE = sections(ROOT / "docs" / "reference" / "settings.md")
# Services whose name differs from the folder of their settings class.
SERVICES = {"WorkerSettings": "worker"}
# The unit that a row must have, by the suffix of its variable.
UNITS = {"_S": "s", "_MIB": "MiB", "_BYTES": "bytes", "_DAYS": "days", "PRICE_PER_HOUR": "USD/h"}
# A variable with a default in a shell script, which the caller may set.
SHELL_VARIABLE = r"\$\{([A-Z][A-Z_0-9]+):[-?]"
READERS = ("*.py", "*.conf", "*.sh", "deploy/envoy/*.yaml", "Makefile")
# Read by every program, or set for programs that are not ours.
ORDINARY = {"PATH", "PYTHONPATH", "HTTP_HOST", "HTTP_PORT", "HF_HUB_OFFLINE"}


def settings() -> dict[str, type[ServiceSettings]]:
    """Map each service to its settings class."""
    for module in sorted((ROOT / "services").glob("*/*/settings.py")):
        importlib.import_module(f"{module.parent.name}.settings")
    classes = [c for c in ServiceSettings.__subclasses__() if c.__module__.endswith(".settings")]
    return {SERVICES.get(c.__name__, c.__module__.partition(".")[0]): c for c in classes}


def shown(default: Any) -> str:
    """Return a default as the table writes it: nothing for an optional setting."""
    if default is PydanticUndefined:
        return "required"
    if default in (None, (), frozenset(), ""):
        return ""
    if isinstance(default, SecretStr):
        default = default.get_secret_value()
    return f"`{default}`"


def in_code() -> Iterator[tuple[str, str, str]]:
    """Return the service, variable and default of every setting."""
    for service, kind in settings().items():
        for name, field in kind.model_fields.items():
            yield service, name.upper(), shown(field.default)


def in_table() -> Iterator[tuple[str, str, str]]:
    for variable, read_by, default, _, _ in rows(PAGE["Services"]):
        services = settings() if read_by == "all" else read_by.split(", ")
        for service in services:
            yield service, variable.strip("`"), default


def test_the_table_of_settings_names_every_variable_of_every_service_with_its_default() -> None:
    written = list(in_table())
    assert len(written) == len(set(written)), "a variable stands twice"
    assert {"gateway", "generator", "benchmarker", "worker", "metrics", "realtime"} <= {*settings()}
    assert sorted(written) == sorted(in_code())


def test_every_setting_states_its_unit_and_its_purpose() -> None:
    for variable, _, _, unit, meaning in rows(PAGE["Services"]):
        assert unit, variable
        assert len(meaning.split()) > 2, variable
        ends = [known for end, known in UNITS.items() if variable.strip("`").endswith(end)]
        assert ends in ([], [unit]), variable


def documented() -> set[str]:
    """Return the variables in the page's tables, and those that the worker passes on."""
    named = {name for text in PAGE.values() for row in rows(text) for name in codes(row[0])}
    return named | {*codes(PAGE["Services"].rpartition("\n\n")[0].rpartition("\n\n")[2])}


def sources(*kinds: str) -> dict[str, str]:
    """Map the path of every committed file of a kind to its text."""
    listed = subprocess.run(
        ["git", "ls-files", *kinds], cwd=ROOT, capture_output=True, text=True, check=True
    )
    paths = [path for path in listed.stdout.splitlines() if (ROOT / path).is_file()]
    return {path: (ROOT / path).read_text() for path in paths}


def read_by_name() -> dict[str, set[str]]:
    """Map variables that the code reads by name to the files that read them."""
    readers = defaultdict(set)
    for path, text in sources("*.py").items():
        if "environ" in text or "getenv" in text:
            for node in ast.walk(ast.parse(text)):
                for name in _variables(node):
                    readers[name].add(path)
    for path, text in sources("*.conf", "*.mjs", "*.ts").items():
        for name in re.findall(r"(?:process\.env\.|: \$)(NATS_\w+|[A-Z][A-Z_]{3,})\b", text):
            readers[name].add(path)
    for path, text in sources("*.sh", "deploy/envoy/*.yaml").items():
        pattern = r"\$\{([A-Z][A-Z_0-9]+)\}" if path.endswith(".yaml") else SHELL_VARIABLE
        for name in re.findall(pattern, text):
            readers[name].add(path)
    return readers


def _variables(node: ast.AST) -> list[str]:
    """Return the names that a node reads from the environment.

    Those are NAME in `os.environ.get(NAME)`, `os.environ[NAME]` and `os.getenv(NAME)`, and
    the strings of a tuple whose own name ends in `VARIABLES`.
    """
    match node:
        case (
            ast.Call(
                func=ast.Attribute(value=ast.Attribute(attr="environ"), attr="get"),
                args=[ast.Constant(value=str() as name), *_],
            )
            | ast.Call(
                func=ast.Attribute(attr="getenv"), args=[ast.Constant(value=str() as name), *_]
            )
            | ast.Subscript(
                value=ast.Attribute(attr="environ"),
                slice=ast.Constant(value=str() as name),
                ctx=ast.Load(),
            )
        ):
            return [name]
        case ast.Assign(targets=[ast.Name(id=target)], value=ast.Tuple(elts=elements)):
            names = [e.value for e in elements if isinstance(e, ast.Constant)]
            return [str(name) for name in names] if target.endswith("VARIABLES") else []
    return []


def test_the_page_lists_every_variable_that_the_code_reads_by_name() -> None:
    variables = read_by_name()
    assert {"LILYPAD_API_KEY", "NATS_STORE", "NATS_ROUTES", "ONLY", "TLS", "AI_AGENT"} <= {
        *variables
    }
    missing = {name: files for name, files in variables.items() if name not in documented()}
    assert {*missing} <= ORDINARY, missing


def test_every_variable_of_the_page_appears_in_the_code() -> None:
    words = {*re.findall(r"\w+", "\n".join(sources(*READERS).values()))}
    words |= {variable for _, variable, _ in in_code()}
    assert len(documented()) > 60
    assert documented() <= words, documented() - words
