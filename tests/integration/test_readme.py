"""The README's first call, as it stands there."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

from integration.caller import Account
from local.stack import Stack

ROOT = Path(__file__).parents[2]


def _block(language: str) -> str:
    readme = (ROOT / "README.md").read_text()
    found = re.search(rf"```{language}\n(.*?)```", readme, re.DOTALL)
    assert found, f"the README has no {language} lines"
    return found[1]


def test_the_lines_for_curl_work_as_pasted(stack: Stack, tmp_path: Path) -> None:
    lines = _block("sh").replace("http://127.0.0.1:8080", stack.url)
    done = subprocess.run(
        ["bash", "-eu", "-c", lines], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    registered, end = json.JSONDecoder().raw_decode(done.stdout)
    generated, _ = json.JSONDecoder().raw_decode(done.stdout, end)
    assert registered["data"]["email"] == "you@example.com"
    assert generated["data"]["validation"]["status"] == "passed"
    assert zipfile.is_zipfile(tmp_path / "module.zip")


def test_the_lines_for_python_work_as_pasted(
    stack: Stack, account: Account, tmp_path: Path
) -> None:
    lines = _block("python").replace("http://127.0.0.1:8080", stack.url)
    lines = lines.replace("lmg_live_...", account.key)
    done = subprocess.run(
        [sys.executable, "-c", lines], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "docker build" in (tmp_path / "module" / "README.md").read_text()
