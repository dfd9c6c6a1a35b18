"""Names in the documentation (commands, programs, addresses), compared with what exists."""

import re
from importlib.util import find_spec
from typing import Any

from documents.tables import ROOT, codes
from documents.test_design import PAGES
from documents.test_openapi import Nothing
from documents.test_settings import sources
from gateway import routes

TEXT = {page: (ROOT / page).read_text() for page in PAGES}
# Folders that a program makes.
MADE = {"deploy/compose/made"}
ADDRESS = re.compile(r"(?:\b(GET|POST|PUT|PATCH|DELETE) )?/(?:v[12]/)?api(/[\w<>{}/-]*[\w>}])")


def test_every_target_of_make_that_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (page, target)
        for page, text in TEXT.items()
        for target in re.findall(r"(?:^|[`\n] *|&& )make ([a-z][a-z0-9-]+)", text)
    }
    assert len(named) > 25
    assert {(page, target) for page, target in named if target not in targets} == set()


def test_every_program_that_a_page_names_exists() -> None:
    programs = {
        name.rstrip(".")
        for page, text in TEXT.items()
        if page != "CHANGELOG.md"  # names former programs too
        for name in re.findall(r"python3? -m ([a-z_.]+)", text)
    }
    assert "gateway.recovery" in programs
    assert [name for name in sorted(programs) if find_spec(name) is None] == []


def served() -> set[tuple[str, str]]:
    """Return the method and the path of each operation, with `*` for each parameter."""
    nothing: Any = Nothing()
    found = routes.endpoints(nothing, nothing, nothing, nothing)
    return {(endpoint.method, re.sub(r"\{\w+\}", "*", endpoint.path)) for endpoint in found}


def test_every_address_of_the_api_that_a_page_names_is_served() -> None:
    known, named = served(), set()
    paths = {path for _, path in known}
    for page, text in TEXT.items():
        for method, path in ADDRESS.findall(text):
            named.add((page, method, re.sub(r"[<{][\w-]+[>}]", "*", path)))
    assert len(named) > 50
    unknown = {
        (page, method, path)
        for page, method, path in named
        if path not in paths or (method and (method, path) not in known)
    }
    assert unknown == set()


def test_every_file_of_the_repository_that_a_page_names_exists() -> None:
    named = {
        (page, name)
        for page, text in TEXT.items()
        for name in re.findall(
            r"`((?:deploy|docs|libs|services|clients|tests|benchmarks)/[\w./-]+)`", text
        )
    }
    assert len(named) > 30
    missing = {(page, name) for page, name in named if not (ROOT / name).exists()}
    assert {(page, name) for page, name in missing if name not in MADE} == set()


def test_every_field_that_a_page_names_appears_in_the_code() -> None:
    """Fields are camelCase in JSON, and snake_case where Python declares them."""
    source = "\n".join(sources("*.py", "*.ts", "*.js", "*.yaml", "*.tmpl").values())
    known = set(re.findall(r"\w+", source))
    named = {
        (page, field)
        for page, text in TEXT.items()
        for span in codes(re.sub(r"```.*?```", "", text, flags=re.DOTALL))
        for field in re.findall(r"(?<![\w-])[a-z]+(?:[A-Z][a-z]+)+(?!\w)", span)
    }
    assert len(named) > 60
    unknown = {
        (page, field)
        for page, field in named
        if not {field, re.sub(r"(?=[A-Z])", "_", field).lower()} & known
    }
    assert unknown == set()


def test_the_unreleased_changes_are_few_enough_to_be_read() -> None:
    """Merging two branches must not bring back entries that were moved below their headings."""
    unreleased = TEXT["CHANGELOG.md"].partition("## Unreleased")[2].partition("\n## ")[0]
    assert len(unreleased.split()) < 3000
    entries = re.findall(r"^- .+", unreleased, re.MULTILINE)
    assert len(entries) == len(set(entries))
