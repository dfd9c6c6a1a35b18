"""The words of `details.reason`, compared with the pages that explain them."""

import ast
from collections.abc import Iterator
from pathlib import Path

from documents.tables import ROOT, codes, rows, sections
from generator.reasons import REASONS

HOW_TO = ROOT / "docs" / "how-to"
SERVICES = ROOT / "services"
# Calls whose last argument is the reason.
POSITIONAL = ("Failed", "_failure")
# Reasons of one size in `results.errors`, which no error has; and of a failure that is retried.
NEVER_SENT = {"not_measured", "disk-busy"}
# The states of a run without results, each of which is the reason that it has no plot.
STATES = {"queued", "running", "failed"}


def reasons(files: list[Path]) -> Iterator[str]:
    """Yield each word that code gives as a reason."""
    for node in (node for file in files for node in ast.walk(ast.parse(file.read_text()))):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            values = [word.value for word in node.keywords if word.arg == "reason"]
            values += node.args[-1:] if name in POSITIONAL else []
        elif isinstance(node, ast.Dict):
            named = zip(node.keys, node.values, strict=True)
            values = [v for k, v in named if isinstance(k, ast.Constant) and k.value == "reason"]
        for value in values:
            yield from _words(value)


def _words(value: ast.expr) -> Iterator[str]:
    """Yield a literal's word, or those of a condition's branches."""
    if isinstance(value, ast.IfExp):
        yield from _words(value.body)
        yield from _words(value.orelse)
    elif isinstance(value, ast.Constant) and isinstance(value.value, str):
        yield value.value


def explained(page: str, section: str) -> set[str]:
    """Return the reasons in the first column of a section's table."""
    return {word for row in rows(sections(HOW_TO / page)[section]) for word in codes(row[0])}


def test_the_page_of_benchmarks_explains_every_reason_of_a_refused_or_failed_run() -> None:
    files = [*(SERVICES / "benchmarker" / "benchmarker").rglob("*.py")]
    files.append(SERVICES / "gateway" / "gateway" / "routes" / "benchmarks.py")
    sent = {*reasons(files)} - NEVER_SENT | STATES
    assert explained("benchmark.md", "Refused and failed runs") == sent


def test_the_page_of_modules_explains_every_reason_of_a_refused_model() -> None:
    files = [*(SERVICES / "generator" / "generator").glob("*.py")]
    assert explained("modules.md", "Refused models") == REASONS | {*reasons(files)}
