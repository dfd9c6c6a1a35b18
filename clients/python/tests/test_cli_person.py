"""The command line for a person: charts, redraws, colours, completion, the next command."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from commands import error_of, simulate_terminal
from scripted import Service
from test_client import MODULE, OVER, RUN
from test_conformance import STATISTICS

from lilypad_client import APIStatusError
from lilypad_client.cli import chart, live
from lilypad_client.cli.__main__ import run

pytestmark = pytest.mark.usefixtures("home")
PLOT = {"title": "Latency", "unit": "ms", "columns": {"mean": [1.0, 5.0, None, 9.0]}}
WINDOW = {"since": "2026-01-01T00:00:00Z", "until": "2026-01-31T00:00:00Z"}


def test_monitor_draws_charts_without_colours_outside_a_terminal(
    service: Service, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = dict.fromkeys(("total", "slopePerDay", "minimum", "maximum", "unit"))
    latency = {"count": 3, "mean": 5.0, "p95": 9.0, "trend": "degrading", "exact": True, **figures}
    answer = {"statistics": {"latency": latency}, "plots": {"latency": PLOT}, "window": WINDOW}
    service.answer({**STATISTICS, **answer, "recommendations": ["take fewer"]})
    assert run(["monitor", "a/b", "--text"]) == 0
    shown = capsys.readouterr().out
    assert "highest 9" in shown
    assert sum("█" in line for line in shown.splitlines()) == chart.ROWS
    assert "- take fewer" in shown
    assert "\x1b" not in shown


HOSTILE = "[/b]:rocket:\x1b]0;owned\x07\x9b2J"
SHOWN = "[/b]:rocket:\\u001b]0;owned\\u0007\\u009b2J"


@pytest.mark.parametrize("form", ["--text", "--json"])
def test_text_from_a_service_cannot_control_the_terminal(
    service: Service, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    service.answer({"models": [{"modelId": HOSTILE, "metrics": ["latency"]}]})
    assert run(["models", form]) == 0
    error = {"code": 3001, "message": HOSTILE, "details": {"a": HOSTILE}}
    service.answer(json.dumps({"error": error}).encode(), 404)
    assert run(["models", form]) == 1
    service.answer({**RUN, "id": HOSTILE}, 202)
    service.answer({**OVER, "id": HOSTILE})
    run(["benchmark", "a/b", form])
    output = capsys.readouterr()
    assert not {"\x1b", "\x07", "\x9b"} & {*output.out, *output.err}
    assert SHOWN in "".join(output.out.split())
    assert SHOWN in output.err


def _updates(values: Iterable[float]) -> Callable[..., Iterator[Any]]:
    def updates(*_: Any, **__: Any) -> Iterator[Any]:
        for value in values:
            yield SimpleNamespace(
                metrics={"latency": value}, timestamp=datetime.now(UTC), complete=True
            )

    return updates


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A terminal that redraws, and a clock of the times at which it did."""
    simulate_terminal(monkeypatch)
    monkeypatch.setenv("TERM", "xterm")
    clock, times = SimpleNamespace(now=100.0), []
    waiting: list[Any] = []
    monkeypatch.setattr(live, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr("rich.live.Live.refresh", lambda _: times.append(clock.now))

    def start(timer: threading.Timer) -> None:
        waiting.append(timer)

    monkeypatch.setattr(live.threading.Timer, "start", start)

    def passing() -> Iterator[float]:
        for second in range(500):
            clock.now += 0.01
            if waiting and clock.now >= times[-1] + 1 / live.MAX_REDRAWS_PER_S:
                waiting.pop().function()
            yield float(second)

    updates = _updates(passing())
    monkeypatch.setattr("lilypad_client.client.LilypadClient.subscribe_metrics", updates)
    return times


def test_watch_redraws_ten_times_a_second_at_most(drawn: list[float]) -> None:
    assert run(["watch", "a/b", "--count", "500"]) == 0
    # The first and the last picture are drawn in any case.
    assert 40 <= len(drawn) <= 5 * live.MAX_REDRAWS_PER_S + 3


@pytest.mark.parametrize(("terminal", "lines"), [("xterm", 1), ("dumb", 3)])
def test_watch_shows_the_last_of_several_updates_that_arrive_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: str, lines: int
) -> None:
    simulate_terminal(monkeypatch)
    monkeypatch.setenv("TERM", terminal)
    ended, shown = threading.Event(), []

    def burst() -> Iterator[float]:
        yield from (1.0, 2.0, 3.0)
        # No further update: the picture has to be complete without one.
        for _ in range(100):
            shown.append(capsys.readouterr().out)
            if "3" in shown[-1].partition("latency")[2]:
                return
            ended.wait(0.1)

    updates = _updates(burst())
    monkeypatch.setattr("lilypad_client.client.LilypadClient.subscribe_metrics", updates)
    assert run(["watch", "a/b"]) == 0
    assert "".join(shown).count("latency") >= lines
    assert "latency" in shown[-1]


def test_ids_and_numbers_are_not_wrapped_in_a_narrow_table(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate_terminal(monkeypatch)
    monkeypatch.setenv("COLUMNS", "60")
    id = "bench_0123456789abcdef01234567"
    service.answer({"runs": [{**RUN, "id": id, "modelId": "a/" + "b" * 60}], "next": None})
    assert run(["runs"]) == 0
    shown = capsys.readouterr().out
    assert id in shown
    assert "…" not in shown


def test_without_arguments_a_person_gets_the_help_and_a_program_the_command_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([]) == 2
    assert error_of(capsys)["next"] == "lilypad --help"
    simulate_terminal(monkeypatch)
    assert run([]) == 2
    assert capsys.readouterr().err.startswith("Usage: lilypad")


@pytest.mark.usefixtures("pauses")
@pytest.mark.parametrize("code", APIStatusError.by_code)
def test_every_refusal_names_the_next_command(
    service: Service, capsys: pytest.CaptureFixture[str], code: int
) -> None:
    service.refuse(422, code)
    assert run(["generate", "a/b"]) == (3 if code in (2002, 5001, 5003) else 1)
    following = error_of(capsys)["next"]
    assert "lilypad " in following or "same command again" in following


@pytest.mark.parametrize(("typed", "offered"), [("gen", "generate"), ("samples l", "list")])
def test_the_shell_completes_commands_options_and_values(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], typed: str, offered: str
) -> None:
    monkeypatch.setenv("_LILYPAD_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"lilypad {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    with pytest.raises(SystemExit):
        run([])
    assert offered in capsys.readouterr().out.splitlines()


def test_a_generated_module_is_summarised_in_a_few_lines_for_a_person(
    service: Service, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    simulate_terminal(monkeypatch)
    service.answer(MODULE)
    assert run(["generate", "a/b", "-o", "module"]) == 0
    shown = capsys.readouterr().out
    assert "1 files in module" in shown
    assert "fill-mask" in shown
