"""The command line against the whole stack."""

import io
import itertools
import json
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from integration.caller import PASSWORD, Account
from integration.load import wait_until
from integration.pages import ROOT, World
from lilypad_client.cli import __main__ as command_line
from local.stack import Stack

URL = "https://huggingface.co/lilypad/tiny-text-classification"
MODEL = URL.removeprefix("https://huggingface.co/")
SCHEMAS = json.loads((ROOT / "clients/python/lilypad_client/cli/schemas.json").read_text())
# The steps that an agent with curl takes too, after it has read the OpenAPI document.
STEPS = {"/v1/api/accounts", "/v1/api/keys", "/v1/api/generate", "/v1/api/benchmark"}
Run = Callable[..., Any]


@pytest.fixture
def world(stack: Stack, account: Account, tmp_path: Path) -> World:
    return World(stack.url, account, tmp_path)


@pytest.fixture
def lilypad(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Run a command in this process and return its data, which its schema describes."""
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(world.folder)

    def run(*arguments: str, code: int = 0, schema: str = "", **environment: str) -> Any:
        monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))
        with monkeypatch.context() as changed:
            for name, value in environment.items():
                changed.setenv(name, value)
            returned = command_line.run(list(arguments))
        output = capsys.readouterr()
        assert returned == code, output.out + output.err
        if "--text" in arguments:
            return output.out
        return _read(output.out, output.err, code, schema or arguments[0])

    return run


@pytest.fixture
def agent(world: World) -> Run:
    """Return a function that runs `lilypad` in a separate process, and counts its runs."""

    def run(*arguments: str, **environment: str) -> Any:
        run.calls += 1  # type: ignore[attr-defined]
        done = subprocess.run(
            [sys.executable, "-m", "lilypad_client.cli", *arguments],
            env={**world.environment, **environment},
            cwd=world.folder,
            input=PASSWORD + "\n",
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        if "--help" in arguments:
            return done.stdout
        return _read(done.stdout, done.stderr, 0, arguments[0])

    run.calls = 0  # type: ignore[attr-defined]
    return run


def _read(out: str, err: str, code: int, schema: str) -> Any:
    data = json.loads(out if code == 0 else err.splitlines()[-1])
    name = "error" if code else schema
    jsonschema.validate(data, {**SCHEMAS["properties"][name], "$defs": SCHEMAS["$defs"]})
    return data


@pytest.mark.timeout(900)
def test_an_agent_that_knows_only_the_help_measures_a_module_in_fewer_calls_than_curl(
    agent: Run, world: World
) -> None:
    alone = {"LILYPAD_API_KEY": ""}
    known = {"EMAIL": f"{secrets.token_hex(6)}@example.com", "URL": URL, "DIR": "module"}
    help_text = agent("--help", **alone)
    commands = re.findall(r"^ +lilypad (.+)$", help_text, re.MULTILINE)
    _, module, run = (
        agent(*(known.get(word, word) for word in command.split()), **alone) for command in commands
    )
    assert (world.folder / "module" / "run_inference.py").exists()
    assert module["validation"]["status"] in {"passed", "warnings"}
    assert all(run["results"]["throughput"])
    pages = (ROOT / "README.md", ROOT / "docs" / "how-to" / "benchmark.md")
    paths = {path for page in pages for path in re.findall(r"curl.*\$URL(\S+)", page.read_text())}
    assert paths >= STEPS
    assert agent.calls == 4 < len(["/openapi.json", *STEPS])


@pytest.mark.timeout(900)
def test_every_command_outside_the_agents_journey_works(lilypad: Run, world: World) -> None:
    for latency in ("8.5", "9.5"):
        lilypad("record", MODEL, f"latency={latency}", "throughput=100")
    assert lilypad("monitor", MODEL)["statistics"]["latency"]["count"] == 2
    assert lilypad("download", MODEL, "-o", "module.zip")["path"] == "module.zip"
    lilypad("download", MODEL, "-o", "extracted", "--extract")
    assert list((world.folder / "extracted").rglob("Dockerfile"))
    assert lilypad("alerts")["alerts"] == []
    update = lilypad("watch", MODEL, "--since", "2026-01-01T00:00:00Z", "--count", "1")
    assert update["metrics"]["latency"] == 8.5
    assert {"modelId": MODEL, "metrics": ["latency", "throughput"]} in lilypad("models")["models"]
    # Listed within a second.
    wait_until(lambda: bool(lilypad("generations")["generations"]))
    kinds = {generation["kind"] for generation in lilypad("generations")["generations"]}
    assert kinds == {"download"}
    assert "laptop" not in json.dumps(lilypad("usage"))
    read = lilypad("samples", "list", MODEL, "latency", schema="samples.list")["samples"]
    assert [sample["value"] for sample in read] == [8.5, 9.5]
    since = ("--since", "2026-01-01T00:00:00Z", "--count", "2")
    for command in (("models",), ("generations",), ("watch", MODEL, *since)):
        assert MODEL in lilypad(*command, "--text", COLUMNS="200")
    assert "highest 9.5" in lilypad("monitor", MODEL, "--text")
    before = ("--metric", "latency", "--to", read[1]["timestamp"], "--yes")
    deleted = lilypad("samples", "delete", MODEL, *before, schema="samples.delete")
    assert deleted == {"deleted": 1}
    assert lilypad("monitor", MODEL)["statistics"]["latency"]["mean"] == 9.5


@pytest.mark.timeout(900)
def test_alerts_are_followed_live(lilypad: Run, account: Account) -> None:
    rule = {"kind": "threshold", "modelId": MODEL, "metric": "warming", "above": 500}
    assert account.post("/v1/api/alerts/rules", rule).status_code == 201
    over = threading.Event()

    def raise_alerts() -> None:
        """Raise and recover an alert, repeatedly, until the command has printed one."""
        for warming in itertools.cycle((900, 1)):
            account.post(
                "/v1/api/monitor/record", {"modelId": MODEL, "metrics": {"warming": warming}}
            )
            if over.wait(0.7):
                return

    raising = threading.Thread(target=raise_alerts)
    raising.start()
    try:
        alert = lilypad("alerts", "--watch", "--model", MODEL, "--count", "1")
    finally:
        over.set()
        raising.join()
    assert (alert["modelId"], alert["type"]) == (MODEL, "warming_threshold")
    [listed] = lilypad("alerts", "--limit", "1")["alerts"]
    assert listed["modelId"] == MODEL


@pytest.mark.timeout(900)
def test_keys_are_made_listed_and_revoked(lilypad: Run, account: Account) -> None:
    owner = ("--email", account.email, "--password-stdin")
    created = lilypad("keys", "create", "ci", "--scope", "generate", *owner, schema="keys.create")
    listed = lilypad("keys", "list", *owner, schema="keys.list")
    assert {key["name"] for key in listed["keys"]} == {"test", "ci"}
    refused = lilypad("monitor", MODEL, code=1, LILYPAD_API_KEY=created["key"])["error"]
    assert (refused["code"], refused["next"]) == (2003, "lilypad keys create NAME --scope SCOPE")
    lilypad("keys", "revoke", created["id"], *owner, schema="keys.revoke")
    refused = lilypad("monitor", MODEL, code=1, LILYPAD_API_KEY=created["key"])["error"]
    assert refused["code"] == 2001
