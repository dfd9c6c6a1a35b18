"""Parsed output of a command, and a simulated terminal."""

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from lilypad_client.cli import credentials
from lilypad_client.cli.terminal import AGENT_VARIABLES

SCHEMAS = json.loads((Path(credentials.__file__).parent / "schemas.json").read_text())
KEY = "lmg_live_x"


def simulate_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate an interactive terminal."""
    for stream in (sys.stdout, sys.stdin):
        monkeypatch.setattr(stream, "isatty", lambda: True, raising=False)
    for name in AGENT_VARIABLES:
        monkeypatch.delenv(name, raising=False)


def data_of(capsys: pytest.CaptureFixture[str], name: str) -> Any:
    """Return a command's data, after checking that it is one line of JSON that fits its schema."""
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    data = json.loads(out)
    jsonschema.validate(data, {**SCHEMAS["properties"][name], "$defs": SCHEMAS["$defs"]})
    return data


def error_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    output = capsys.readouterr()
    assert output.out == ""
    last = json.loads(output.err.splitlines()[-1])
    jsonschema.validate(last, SCHEMAS["properties"]["error"])
    error: dict[str, Any] = last["error"]
    return error
