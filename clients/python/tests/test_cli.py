"""The command line, against a scripted service."""

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from commands import KEY, data_of, error_of, simulate_terminal
from scripted import Service
from test_client import MODULE, OVER, RUN
from typer.main import get_group

from lilypad_client.cli import (
    account,
    chart,
    credentials,
    measuring,
    modules,
    monitoring,
    protection,
    samples,
)
from lilypad_client.cli.__main__ import run
from lilypad_client.cli.commands import COMMANDS

pytestmark = pytest.mark.usefixtures("home")


def test_generate_writes_the_files_and_prints_their_names(
    service: Service, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(MODULE)
    assert run(["generate", "a/b", "-o", "module", "--batch-size", "4", "--no-gpu"]) == 0
    assert data_of(capsys, "generate")["files"] == ["Dockerfile"]
    assert (home / "module" / "Dockerfile").read_text() == "FROM x\n"
    [(_, headers, body)] = service.requests
    assert headers["Authorization"] == f"Bearer {KEY}"
    assert json.loads(body)["options"] == {"batchSize": 4, "gpu": False}


def test_verify_and_download_accept_the_options_of_generate(
    service: Service, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("verify", "download"):
        service.refuse(422, 1002)
        assert run(["--json", command, "a/b", "--batch-size", "4", "--memory", "8GB"]) == 1
        assert error_of(capsys)["code"] == 1002
        options = json.loads(service.requests[-1][2])["options"]
        assert options == {"batchSize": 4, "memory": "8GB"}
    assert not list(home.glob("*.zip"))


def test_a_benchmark_prints_results_and_shows_progress_on_standard_error(
    service: Service, pauses: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    service.answer(RUN, 202)
    service.answer({**RUN, "state": "running"})
    service.answer(OVER)
    assert run(["benchmark", "a/b", "--batch-sizes", "1,2"]) == 0
    output = capfd.readouterr()
    assert json.loads(output.out)["state"] == "succeeded"
    assert [line.rpartition(" ")[2] for line in output.err.splitlines()] == [
        "queued", "running", "succeeded",
    ]  # fmt: skip
    assert json.loads(service.requests[0][2])["batchSizes"] == [1, 2]


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize(
    ("status", "code", "exit_code", "following"),
    [
        (400, 1001, 1, "lilypad generate https://huggingface.co/"),
        (401, 2001, 1, "lilypad login"),
        (403, 2003, 1, "lilypad keys create"),
        (404, 3001, 1, "lilypad models"),
        (503, 5003, 3, "run the same command again"),
    ],
)
def test_a_refusal_names_the_next_command(
    service: Service,
    capsys: pytest.CaptureFixture[str],
    status: int,
    code: int,
    exit_code: int,
    following: str,
) -> None:
    for _ in range(3):
        service.refuse(status, code)
    assert run(["monitor", "a/b"]) == exit_code
    error = error_of(capsys)
    assert (error["code"], error["requestId"]) == (code, "req_12345678")
    assert following in error["next"]


@pytest.mark.usefixtures("pauses")
def test_an_unavailable_service_exits_with_the_retry_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LILYPAD_BASE_URL", "http://127.0.0.1:9")
    assert run(["monitor", "a/b"]) == 3
    assert "again" in error_of(capsys)["next"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "a/b", "--nonsense"],
        ["nonsense"],
        ["record", "a/b", "latency"],
        ["record", "a/b", "latency=nan"],
        ["benchmark", "a/b", "--batch-sizes", "one"],
        ["schema", "nonsense"],
    ],
    ids=" ".join,
)
def test_an_invalid_command_is_refused_with_a_pointer_to_its_help(
    service: Service, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert run(arguments) == 2
    assert error_of(capsys)["next"].endswith("--help")
    assert service.requests == []


def test_a_folder_that_cannot_be_written_is_a_failure_not_a_usage_error(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    service.answer(MODULE)
    assert run(["generate", "a/b", "-o", "/dev/null/module"]) == 1
    assert error_of(capsys)["next"] == "lilypad generate --help"


def test_a_login_is_stored_in_a_private_file_and_used_only_for_its_service(
    service: Service,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("LILYPAD_API_KEY")
    assert run(["monitor", "a/b"]) == 1
    assert "lilypad login" in error_of(capsys)["next"]

    created = {"id": "key_1", "key": "lmg_live_new", "name": "n", "prefix": "p", "scopes": []}
    service.answer({**created, "createdAt": "2026-01-31T12:00:00Z", "expiresAt": None}, 201)
    service.answer({"runs": [], "next": None})
    monkeypatch.setenv("LILYPAD_PASSWORD", "secret")
    assert run(["login", "--email", "a@b.c"]) == 0
    kept = Path(data_of(capsys, "login")["kept"])
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert home in kept.parents

    monkeypatch.delenv("LILYPAD_BASE_URL")
    service.answer({"status": "success"})
    assert run(["record", "a/b", "latency=8.5"]) == 0
    assert service.requests[-1][1]["Authorization"] == "Bearer lmg_live_new"
    assert run(["record", "a/b", "latency=8.5", "--url", "http://127.0.0.1:9"]) == 1


def test_an_invalid_key_is_not_stored(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    service.refuse(401, 2001)
    monkeypatch.setattr("sys.stdin.readline", lambda: "lmg_live_old\n", raising=False)
    assert run(["login", "--key-stdin"]) == 1
    assert not credentials.path().exists()


def test_a_caller_without_a_terminal_is_never_prompted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        pytest.fail("asked")

    monkeypatch.setattr("typer.prompt", fail)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert run(["login"]) == 1
    assert "--password-stdin" in error_of(capsys)["next"]


def test_output_on_a_terminal_is_tables_and_sentences(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate_terminal(monkeypatch)
    service.answer({"runs": [RUN], "next": None})
    assert run(["runs"]) == 0
    shown = capsys.readouterr().out
    assert "bench_1" in shown
    assert "{" not in shown
    service.refuse(404, 3001)
    assert run(["runs", "bench_2"]) == 1
    assert capsys.readouterr().err.startswith("error: no")


def test_models_are_compared_by_their_newest_results(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = {**OVER, "id": "bench_2", "modelId": "c/d"}
    for _ in range(2):
        service.answer({"runs": [RUN, OVER], "next": None})
        service.answer(OVER)
        service.answer(other)
    compared = ["compare", "https://hf.co//a/b/?x", "bench_2"]
    assert run(compared) == 0
    # The service reads the address, by the rule of every other door.
    assert "modelId=https%3A%2F%2Fhf.co%2F%2Fa%2Fb%2F%3Fx" in service.requests[0][0]
    assert [row["id"] for row in data_of(capsys, "compare")["runs"]] == ["bench_1", "bench_2"]
    simulate_terminal(monkeypatch)
    assert run(compared) == 0
    assert "c/d" in capsys.readouterr().out


@pytest.mark.parametrize("variable", ["CLAUDECODE", "CODEX_SANDBOX", "AI_AGENT"])
def test_an_agent_in_a_terminal_gets_json(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variable: str,
) -> None:
    simulate_terminal(monkeypatch)
    monkeypatch.setenv(variable, "1")
    service.answer({"runs": [RUN], "next": None})
    assert run(["runs"]) == 0
    assert data_of(capsys, "runs")["runs"][0]["id"] == "bench_1"


def test_the_schema_of_a_command_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "monitor"]) == 0
    assert "Monitoring" in json.loads(capsys.readouterr().out)["$defs"]


def test_a_chart_shows_the_highest_value_and_fits_the_terminal() -> None:
    values = [1.0] * 500
    values[250] = 9.0
    heading, *rows = chart.lines("latency", values, 40)
    assert "highest 9" in heading
    assert max(len(row) for row in rows) <= 40
    assert sum("█" in row for row in rows) == chart.ROWS
    assert chart.lines("latency", [], 40) == ["latency: no values"]


def test_the_help_imports_no_slow_module() -> None:
    slow = ("httpx2", "pydantic", "asyncio", "rich", "email", "socketio", "keyring")
    slow += ("lilypad_client.client", "lilypad_client.cli.session")
    code = (
        "import json, sys; from lilypad_client.cli.__main__ import run; status = run(['--help']);"
        f"print(json.dumps([status, [m for m in {slow} if m in sys.modules]]), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(done.stderr) == [0, []]


def test_the_help_lists_the_commands_of_every_module_on_one_line_each() -> None:
    listed = {
        name: module.__name__.rpartition(".")[2]
        for module in (account, measuring, modules, monitoring, protection, samples)
        for name in get_group(module.app).commands
    }
    assert listed == {name: module for name, (module, _) in COMMANDS.items()}
    assert max(len(line) for _, line in COMMANDS.values()) <= 80 - len("  second-factor  ")


def test_a_misspelt_command_is_refused_with_the_nearest_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["genrate", "a/b"]) == 2
    assert "Did you mean 'generate'" in error_of(capsys)["message"]
