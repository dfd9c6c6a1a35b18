"""The command line's lists and verifications."""

import csv
import io
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from commands import data_of, error_of, simulate_terminal
from scripted import Service
from test_client import MODULE

from lilypad_client.cli.__main__ import run

pytestmark = pytest.mark.usefixtures("home")
GENERATION = {
    "id": "gen_1", "kind": "generate", "modelId": "a/b", "commit": "0" * 40, "task": "fill-mask",
    "digest": "1" * 64, "request": {"modelUrl": "a/b"}, "createdAt": "2026-01-31T12:00:00Z",
}  # fmt: skip
USAGE = {
    "day": "2026-01-31",
    "keyId": "key_1",
    "keyName": "laptop",
    "generate": 2,
    "errors": {"2002": 3},
}
LISTS: dict[str, tuple[dict[str, Any], str]] = {
    "models": ({"models": [{"modelId": "a/b", "metrics": ["latency"]}]}, "latency"),
    "generations": ({"generations": [GENERATION]}, "gen_1"),
    "usage": ({"usage": [USAGE]}, "2002: 3"),
}


def _sample(second: int, value: float) -> dict[str, Any]:
    return {"timestamp": f"2026-01-31T12:00:0{second}Z", "value": value}


def _samples(*samples: dict[str, Any], following: str | None = None) -> dict[str, Any]:
    page = {"modelId": "a/b", "metric": "latency", "unit": "ms"}
    return {**page, "samples": list(samples), "next": following}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_is_json_for_a_program_and_a_table_on_a_terminal(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
) -> None:
    answer, shown = LISTS[name]
    for _ in range(2):
        service.answer({**answer, "next": None})
    assert run([name]) == 0
    assert data_of(capsys, name) == answer
    simulate_terminal(monkeypatch)
    assert run([name]) == 0
    table = capsys.readouterr().out
    assert shown in table
    assert "{" not in table


@pytest.mark.parametrize("name", ["models", "generations", "runs"])
def test_a_list_stops_at_its_limit(
    service: Service, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    answer = LISTS["generations"][0] if name == "generations" else {name: []}
    [field] = answer
    service.answer({field: answer[field] * 2, "next": None})
    assert run([name, "--limit", "1"]) == 0
    assert len(data_of(capsys, name)[field]) <= 1
    assert service.requests[0][0].endswith("?limit=1")


def test_samples_are_printed_unchanged_as_json_or_csv(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        service.answer(_samples(_sample(1, 0.1 + 0.2), following="42"))
        service.answer(_samples(_sample(2, 1e-9)))
    span = ["a/b", "latency", "--from", "2026-01-31", "--to", "2026-02-01"]
    assert run(["samples", "list", *span]) == 0
    read = data_of(capsys, "samples.list")["samples"]
    assert [sample["value"] for sample in read] == [0.1 + 0.2, 1e-9]
    assert run(["samples", "list", *span, "--csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [float(line["value"]) for line in lines] == [0.1 + 0.2, 1e-9]
    assert [line["timestamp"] for line in lines] == [sample["timestamp"] for sample in read]
    query = dict(parse_qsl(urlsplit(service.requests[0][0]).query))
    assert (query["from"], query["to"]) == ("2026-01-31", "2026-02-01")


def test_samples_are_deleted_only_after_confirmation(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["samples", "delete", "a/b", "--metric", "latency"]
    assert run(command) == 2
    assert "--yes" in error_of(capsys)["message"]
    simulate_terminal(monkeypatch)
    monkeypatch.setattr("sys.stdin.readline", lambda *_: "n\n", raising=False)
    monkeypatch.setattr("click.termui.visible_prompt_func", lambda *_: "n", raising=False)
    assert run(command) == 130
    assert service.requests == []
    service.answer({"deleted": 2})
    capsys.readouterr()
    assert run([*command, "--yes", "--json"]) == 0
    assert data_of(capsys, "samples.delete") == {"deleted": 2}
    assert dict(parse_qsl(urlsplit(service.requests[0][0]).query)) == {
        "modelId": "a/b", "metric": "latency",
    }  # fmt: skip


def _trial(state: str) -> dict[str, Any]:
    return {
        **MODULE,
        "verification": {"id": "ver_1", "state": state, "createdAt": "2026-01-31T12:00:00Z"},
    }


def test_a_module_is_verified_before_its_files_are_written(
    service: Service, pauses: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    service.answer(_trial("queued"), 202)
    service.answer(_trial("running"))
    service.answer(_trial("succeeded"))
    assert run(["verify", "a/b", "-o", "module"]) == 0
    output = capfd.readouterr()
    assert json.loads(output.out)["files"] == ["Dockerfile"]
    assert [line.rpartition(" ")[2] for line in output.err.splitlines()] == [
        "queued", "running", "succeeded",
    ]  # fmt: skip
    (path, headers, body), *_ = service.requests
    assert (path, headers["Prefer"]) == ("/v1/api/generate", "respond-async")
    assert json.loads(body) == {"modelUrl": "a/b", "verify": True}
