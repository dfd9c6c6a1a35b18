"""Data on standard output; progress and errors on standard error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

# Variables set by agents that type commands in place of a person.
AGENT_VARIABLES = ("CLAUDECODE", "CODEX_SANDBOX", "AI_AGENT")
# Control characters, with which a text that a service sent could redraw or command a terminal.
CONTROL = {
    code: f"\\u{code:04x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\t\n"
}
# Exit codes: the service refused or the work failed; invalid command; try again later.
FAILED, USAGE, TRANSIENT = 1, 2, 3


class Terminal:
    """The output of a command.

    `agent`: the caller is a program: commands never prompt, and print compact JSON by default.
    """

    def __init__(self, *, json: bool | None = None) -> None:
        self.agent = not sys.stdout.isatty() or any(os.environ.get(n) for n in AGENT_VARIABLES)
        self.json = self.agent if json is None else json

    @property
    def prompts(self) -> bool:
        return not self.agent and sys.stdin.isatty()

    def show(self, data: Any, draw: Callable[[Console], None]) -> None:
        """Print data as JSON, or call `draw` for text output."""
        if self.json:
            self.print_json(data)
        else:
            draw(console())

    def print_json(self, data: Any) -> None:
        import json  # noqa: PLC0415  (the help can do without)

        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        print(printable(text), flush=True)

    def note(self, text: str) -> None:
        """Print a note to standard error; JSON output omits it."""
        if not self.json:
            print(printable(text), file=sys.stderr, flush=True)

    def fail(self, message: str, advice: str, **facts: Any) -> None:
        """Print an error and the command or step that comes next."""
        if self.json:
            import json  # noqa: PLC0415  (as above)

            error = {"message": message, "next": advice, **facts}
            text = json.dumps({"error": error}, ensure_ascii=False, separators=(",", ":"))
        else:
            text = f"error: {message}\nnext:  {advice}"
        print(printable(text), file=sys.stderr)

    @contextmanager
    def progress(self, label: str) -> Iterator[Callable[[str, int, int], None]]:
        """Show a progress bar on standard error; yield its update function (state, done, total)."""
        if self.json or not sys.stderr.isatty():
            yield self._line(label)
            return
        from rich.markup import escape  # noqa: PLC0415  (slow to import)
        from rich.progress import Progress  # noqa: PLC0415

        shown = console(stderr=True)
        with Progress(console=shown, transient=True, refresh_per_second=10) as bar:
            task = bar.add_task(escape(printable(label)), total=None)
            yield lambda state, done, total: bar.update(
                task,
                description=escape(printable(f"{label}: {state}")),
                completed=done,
                total=total or None,
            )

    def _line(self, label: str) -> Callable[[str, int, int], None]:
        shown: set[str] = set()

        def say(state: str, _done: int, _total: int) -> None:
            if state not in shown:
                shown.add(state)
                print(printable(f"{label}: {state}"), file=sys.stderr, flush=True)

        return say


def printable(text: str) -> str:
    """Escape control characters other than line breaks and tabs."""
    return text.translate(CONTROL)


def console(*, stderr: bool = False) -> Console:
    """Return a console that prints text literally, without markup, emoji or control characters."""
    from rich.console import Console  # noqa: PLC0415  (slow to import)

    class Plain(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            # Tables ask for markup whatever the console was made with.
            plain = {**options, "markup": False, "emoji": False}
            return super().render_str(printable(text), **plain)

    return Plain(highlight=False, stderr=stderr)


def table(output: Console, columns: Mapping[str, str], rows: list[list[Any]]) -> None:
    """Print a table; columns other than ids and numbers may wrap.

    `columns`: title to justification.
    """
    from rich.table import Table  # noqa: PLC0415  (slow to import)

    drawn = Table(box=None, header_style="bold", pad_edge=False)
    for title, justify in columns.items():
        is_unfolded = title == "id" or justify == "right"
        drawn.add_column(title, justify=justify, no_wrap=is_unfolded, overflow="fold")  # type: ignore[arg-type]  # one of rich's words
    for row in rows:
        drawn.add_row(*("" if cell is None else _text(cell) for cell in row))
    output.print(drawn)


def _text(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)
