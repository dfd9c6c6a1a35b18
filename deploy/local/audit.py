"""`python -m local.audit`: compare the pinned packages with the published advisories.

Exits with 0 if none applies, with 1 and their names if one does, and with 2 if the advisories
of Python's or JavaScript's packages cannot be reached, which leaves the result unknown.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# Environment into which `make audit` installs pip-audit, whose packages the services do not need.
AUDITOR = ROOT / ".venv" / "audit"
SCRIPTS = ("clients/javascript", "services/gateway/gateway/pages", "tests/integration/javascript")


class Unreachable(Exception):
    """A failure to fetch the advisories."""


def python_advisories() -> list[str]:
    """Return the advisories that apply to the packages in constraints.txt."""
    command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json"]
    command += ["--progress-spinner", "off", "--requirement", str(ROOT / "constraints.txt")]
    answer = _answer(command, {**os.environ, "PYTHONPATH": str(AUDITOR)})
    packages = answer.get("dependencies", [])
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        raise Unreachable
    if skipped:  # torch's own builds, for example
        print(f"  not audited: {', '.join(skipped)}")
    return [
        f"{package['name']} {package['version']}: {advisory['id']}"
        for package in packages
        for advisory in package.get("vulns", [])
    ]


def script_advisories(folder: str) -> list[str]:
    """Return the advisories that apply to the npm packages installed in a folder."""
    answer = _answer(["npm", "audit", "--json", "--prefix", str(ROOT / folder)], dict(os.environ))
    if "vulnerabilities" not in answer:
        raise Unreachable
    return [f"{name}: {about['severity']}" for name, about in answer["vulnerabilities"].items()]


def _answer(command: list[str], environment: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    try:
        return dict(json.loads(done.stdout))
    except (ValueError, TypeError):
        raise Unreachable from None


def main() -> int:
    status = 0
    audits: dict[str, Callable[[], list[str]]] = {"Python": python_advisories}
    audits |= {folder: partial(script_advisories, folder) for folder in SCRIPTS}
    for name, audit in audits.items():
        try:
            advisories = audit()
        except Unreachable:
            print(f"{name}: NOT AUDITED, its advisories cannot be reached from here")
            status = status or 2
            continue
        print(f"{name}: {len(advisories)} advisories apply", *advisories, sep="\n  ")
        status = 1 if advisories else status
    return status


if __name__ == "__main__":
    sys.exit(main())
