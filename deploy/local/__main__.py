"""`python -m local run`: serve on this machine until Ctrl-C; `backup` and `restore` its data."""

import os
import signal
import sys
import threading
from collections.abc import MutableMapping
from pathlib import Path
from typing import Never

from rich.console import Console
from rich.markup import escape

from local import backup, ports
from local.process import CannotStart, Report
from local.stack import Stack

USAGE = """usage: python -m local run
       python -m local backup FOLDER
       python -m local restore FOLDER

Serves at http://127.0.0.1:8080 until Ctrl-C. `backup` writes the data and the secrets of
LILYPAD_HOME to a new folder, while it serves or not; `restore` makes a new LILYPAD_HOME of that
folder. Environment:
  PORT           another port
  LILYPAD_HOME   directory of data, logs and secrets (.lilypad)
  HF_ENDPOINT    another Hub than https://huggingface.co
  HF_TOKEN       for the Hub's higher limits
  SHARED_MODELS  private and gated models that HF_TOKEN opens to everybody
  LOG_LEVEL      of the services (INFO)
  ENCRYPTION_KEYS  in place of the one in LILYPAD_HOME; it is in no backup"""


class Progress(Report):
    """Lines for people: coloured on a terminal, plain elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def ready(self, part: str, seconds: float) -> None:
        self.console.print(f"  [green]✓[/] {part:<14}[dim]{seconds:5.1f} s[/]", highlight=False)

    def note(self, sentence: str) -> None:
        self.console.print(f"  [yellow]![/] {escape(sentence)}", highlight=False, soft_wrap=True)


def main(arguments: list[str]) -> int:
    if arguments != ["run"] and (len(arguments) != 2 or arguments[0] not in ("backup", "restore")):
        print(USAGE, file=sys.stderr)
        return 2
    interruptible()
    ports.reach_directly()
    console = Console()
    home = Path(os.environ.get("LILYPAD_HOME") or ".lilypad")
    try:
        if arguments == ["run"]:
            check_hub(os.environ)
            port = port_of(os.environ.get("PORT") or "8080")
            serve(Stack(home, port=port, report=Progress(console)), console)
        else:
            command, folder = arguments
            keep(command, Path(folder), home, console)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except (CannotStart, backup.Failed) as error:
        done = {"run": "started", "backup": "backed up", "restore": "restored"}[arguments[0]]
        Console(stderr=True).print(
            f"[red]Not {done}:[/] {escape(str(error))}", highlight=False, soft_wrap=True
        )
        return 1
    return 0


def serve(stack: Stack, console: Console) -> None:
    try:
        with console.status("starting ..."):
            stack.start()
        console.print(
            f"\n[bold green]Lilypad Model Generator[/] is at [bold]{stack.url}[/]\n"
            f"[dim]logs in {stack.logs}; Ctrl-C stops it[/]\n",
            highlight=False,
            soft_wrap=True,
        )
        threading.Event().wait()
    except KeyboardInterrupt:
        with console.status("stopping ..."):
            stack.close()
        console.print("stopped", highlight=False)


def keep(command: str, folder: Path, home: Path, console: Console) -> None:
    """Run `backup` or `restore` and print the outcome."""
    if command == "backup":
        with console.status("backing up ..."):
            backup.save(home, folder)
        said = f"{home} is backed up in {folder}; its passwords are in it, so keep it safe"
        if not backup.holds_encryption_keys(folder):
            said += "\nwhat ENCRYPTION_KEYS encrypts needs that value too: keep it apart"
    else:
        with console.status("restoring ..."):
            backup.restore(folder, home)
        said = f"{home} is restored; start it with `make run`"
    console.print(said, highlight=False, soft_wrap=True, markup=False)


def interruptible() -> None:
    """Raise KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP, so that all child processes stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)


def _interrupt(_number: int, _frame: object) -> Never:
    # Once is enough: a second one must not interrupt the orderly end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def port_of(text: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
        return int(text)
    raise CannotStart(f"PORT={text} is not a port; set a number from 1 to 65535")


def check_hub(environment: MutableMapping[str, str]) -> None:
    """Raise CannotStart unless HF_ENDPOINT is an HTTP address; remove an empty value."""
    hub = environment.get("HF_ENDPOINT", "").strip()
    if not hub:
        environment.pop("HF_ENDPOINT", None)
    elif not hub.startswith(("http://", "https://")):
        raise CannotStart(f"HF_ENDPOINT={hub} is not an address; begin it with https:// or http://")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
