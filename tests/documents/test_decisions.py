"""The tests and line counts that documents cite, compared with the code."""

import re
import subprocess

import pytest

from documents.tables import ROOT

COMMON = ROOT / "libs/common/common"
LOCAL = ROOT / "deploy/local"
# The files that a decision counts as "about N lines".
COUNTED = {
    "001": [COMMON / f"{name}.py" for name in ("bus", "pending", "connection", "service", "jobs")],
    "005": [path for path in LOCAL.glob("*.py") if path.name not in ("demo.py", "watch.py")],
    "015": [ROOT / "services/gateway/gateway/pages/static/docs.js"],
}
TOLERANCE = 0.2


@pytest.mark.parametrize("number", COUNTED)
def test_the_number_of_code_lines_that_a_decision_states_is_right_within_a_fifth(
    number: str,
) -> None:
    [page] = (ROOT / "docs/decisions").glob(f"{number}-*.md")
    [stated] = re.findall(r"[Aa]bout ([\d,]+) lines", page.read_text())
    lines = sum(len(path.read_text().splitlines()) for path in COUNTED[number])
    assert abs(int(stated.replace(",", "")) / lines - 1) < TOLERANCE, lines


def test_every_test_that_a_document_cites_exists() -> None:
    pages = "\n".join(path.read_text() for path in (ROOT / "docs").rglob("*.md"))
    cited = set(re.findall(r"`(test_\w+)`", pages))
    assert len(cited) > 5
    listed = subprocess.run(
        ["git", "grep", "-hoE", r"def test_\w+", "--", "*.py"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert cited <= {line.removeprefix("def ") for line in listed.stdout.splitlines()}
