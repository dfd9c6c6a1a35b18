"""The audit of dependencies, with matching, other and unreachable advisories."""

from typing import Any

import pytest

from local import audit

UNHEARD = {"dependencies": [{"name": "a", "skip_reason": "not found on PyPI"}]}
SAFE = {"dependencies": [{"name": "a", "version": "1", "vulns": []}]}
KNOWN = {"dependencies": [{"name": "a", "version": "1", "vulns": [{"id": "CVE-1"}]}]}
SAFE_SCRIPTS: dict[str, Any] = {"vulnerabilities": {}}
KNOWN_SCRIPTS = {"vulnerabilities": {"b": {"severity": "high"}}}


@pytest.mark.parametrize(
    ("python", "scripts", "status", "message"),
    [
        (SAFE, SAFE_SCRIPTS, 0, "Python: 0 advisories apply"),
        (KNOWN, SAFE_SCRIPTS, 1, "a 1: CVE-1"),
        (SAFE, KNOWN_SCRIPTS, 1, "b: high"),
        (UNHEARD, SAFE_SCRIPTS, 2, "Python: NOT AUDITED"),
        (SAFE, {"message": "405 Method Not Allowed"}, 2, "javascript: NOT AUDITED"),
        (UNHEARD, KNOWN_SCRIPTS, 1, "b: high"),
    ],
)
def test_an_audit_without_access_to_the_advisories_fails(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    python: dict[str, Any],
    scripts: dict[str, Any],
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr(
        audit, "_answer", lambda command, _: scripts if command[0] == "npm" else python
    )
    assert audit.main() == status
    assert message in capsys.readouterr().out


def test_set_up_pins_its_own_pip() -> None:
    pinned = (audit.ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(line.startswith("pip==") for line in pinned)
