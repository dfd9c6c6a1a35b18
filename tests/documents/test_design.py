"""DESIGN.md and other documents, compared with the files and links in them."""

import re
import subprocess
from pathlib import Path

import pytest

from documents.tables import ROOT, codes, rows, sections

DESIGN = sections(ROOT / "DESIGN.md")
# Folders that the design's paths start from.
ROOTS = (ROOT, ROOT / "libs" / "common", ROOT / "services" / "generator" / "generator")
LINK = re.compile(r"\]\(([^)\s]+)\)")
PAGES = subprocess.run(
    ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.splitlines()


def test_the_runtime_table_has_every_module_of_the_common_library() -> None:
    folder = ROOT / "libs" / "common" / "common"
    present = {path.name for path in folder.glob("*.py")} - {"__init__.py"} | {"contracts/"}
    [table] = [text for title, text in DESIGN.items() if title.startswith("The runtime")]
    assert {name for row in rows(table) for name in codes(row[0])} == present


def test_every_module_that_the_design_names_exists() -> None:
    named = {name for text in DESIGN.values() for name in codes(text)}
    paths = {name for name in named if re.fullmatch(r"[a-z_.]+(/[a-z_.]+)+/?", name)}
    assert "services/gateway" in paths
    missing = [path for path in paths if not any((root / path).exists() for root in ROOTS)]
    assert not missing


def anchors(page: Path) -> set[str]:
    """Return the fragments that a page's headings have on GitHub."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_document_has_a_target(page: str) -> None:
    folder = (ROOT / page).parent
    for target in LINK.findall((ROOT / page).read_text()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, fragment = target.partition("#")
        target_path = folder / path if path else ROOT / page
        assert target_path.exists(), target
        assert not fragment or fragment in anchors(target_path), target


def test_every_column_of_a_table_under_docs_has_a_title() -> None:
    """A screen reader cannot announce an empty heading."""
    for page in (page for page in PAGES if page.startswith("docs/")):
        heads = re.findall(r"^(\|.*\|)\n\|[-|: ]+\|$", (ROOT / page).read_text(), re.MULTILINE)
        for head in heads:
            assert all(cell.strip() for cell in head.strip("|").split("|")), (page, head)


def test_every_page_under_docs_opens_with_what_the_reader_gets() -> None:
    """A page whose title is followed by a list, a table or a command explains nothing."""
    for page in (page for page in PAGES if page.startswith("docs/")):
        _, opening = re.split(r"\A# .+\n+", (ROOT / page).read_text())
        assert not re.match(r"#|\||```|<|- |\d+\. ", opening), (page, opening[:80])


def test_every_page_says_what_the_variables_of_its_commands_are() -> None:
    for page in (page for page in PAGES if page.startswith("docs/how-to/")):
        text = (ROOT / page).read_text()
        for name in ("URL", "KEY"):
            if f"${name}" in text:
                assert f"`{name}`" in text or f"\n{name}=" in text, (page, name)
