"""The entry point, which prints a command's errors and returns its exit code."""

import gc
import os
import sys
from itertools import takewhile

try:
    # Nothing is garbage while modules load; looking for it takes a tenth of the time to the help.
    gc.disable()
    import typer
except ImportError:
    sys.exit('error: the command line needs more packages: pip install "lilypad-client[cli]"')

from lilypad_client.cli.commands import Commands
from lilypad_client.cli.terminal import FAILED, TRANSIENT, USAGE, Terminal
from lilypad_client.errors import (
    APIConnectionError,
    APIStatusError,
    ArchiveError,
    AuthenticationError,
    BenchmarkError,
    ConflictError,
    GenerationError,
    InternalError,
    InvalidModelError,
    InvalidRequestError,
    LilypadError,
    MonitoringError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnavailableError,
)
from lilypad_client.version import __version__

HELP = """From a Hugging Face model to a module that runs it, measured and watched.

Begin, with a new account, or with LILYPAD_API_KEY set or `lilypad login` alone for an old one:

\b
  lilypad login --register --email EMAIL --password-stdin
  lilypad generate URL -o DIR
  lilypad benchmark URL --batch-sizes 1,4

Data goes to standard output, progress and errors to standard error; where no person reads it, data
is JSON (lilypad schema COMMAND). Exit codes: 0 done, 1 refused or failed, 2 usage, 3 try again
later.
"""
TRANSIENT_ERRORS = (APIConnectionError, RateLimitError, UnavailableError, InternalError)
# The next command to suggest, for programs that know no other documentation.
NEXT: dict[type[LilypadError], str] = {
    AuthenticationError: "lilypad login --email EMAIL --password-stdin",
    PermissionDeniedError: "lilypad keys create NAME --scope SCOPE",
    InvalidModelError: "lilypad generate https://huggingface.co/OWNER/NAME -o DIR",
    GenerationError: "lilypad generate --help (--accept), or another model",
    BenchmarkError: "lilypad benchmark MODEL --batch-sizes 1",
    MonitoringError: "lilypad samples delete MODEL --to TIME --yes, if the storage is full",
    ConflictError: "the same command again without --idempotency-key",
    NotFoundError: "lilypad runs",
    ArchiveError: "lilypad download URL -o FILE",
}
# Where a command's models and ids are listed.
LISTS = dict.fromkeys(("monitor", "watch", "samples"), "lilypad models")
LISTS["keys"] = "lilypad keys list --email EMAIL --password-stdin"
# Commands that need the account's password instead of the key that a login stores.
OWNED = ("keys", "hub-token", "second-factor")

app = typer.Typer(
    name="lilypad",
    cls=Commands,
    help=HELP,
    no_args_is_help=True,
    # Rich takes longer to load than the rest of the program.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: bool = typer.Option(
        False, "--version", is_eager=True, callback=_show_version, help="Print the version."
    ),
) -> None:
    del version


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    gc.freeze()
    gc.enable()
    as_json = True if "--json" in arguments else False if "--text" in arguments else None
    terminal = Terminal(json=as_json)
    # Every command takes them; many people type them before it.
    before = list(takewhile(("--json", "--text").__contains__, arguments))
    if len(before) < len(arguments):
        arguments = [*arguments[len(before) :], *before]
    try:
        return int(app(arguments, prog_name="lilypad", standalone_mode=False) or 0)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else "lilypad"
        message = error.format_message()
        if not message.startswith("Usage: "):
            terminal.fail(message, f"{path} --help")
        elif terminal.json:  # the help, since no command was typed
            terminal.fail("a command is missing", f"{path} --help")
        else:
            print(message, file=sys.stderr)
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except BrokenPipeError:
        # The reader has closed the pipe; Python would report it again on flushing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except LilypadError as error:
        return _report(terminal, error, arguments)
    except (OSError, ValueError) as error:
        terminal.fail(str(error), f"lilypad {arguments[0]} --help")
        return FAILED if isinstance(error, OSError) else USAGE


def _report(terminal: Terminal, error: LilypadError, arguments: list[str]) -> int:
    facts = {}
    if isinstance(error, APIStatusError):
        facts = {
            "code": error.code,
            "details": error.details,
            "requestId": error.request_id,
            "retryAfter": error.retry_after,
        }
    text = error.message if isinstance(error, APIStatusError) and terminal.json else str(error)
    transient = isinstance(error, TRANSIENT_ERRORS) or facts.get("retryAfter") is not None
    advice = next((text for kind, text in NEXT.items() if isinstance(error, kind)), error.advice)
    command = next((argument for argument in arguments if not argument.startswith("-")), "")
    if isinstance(error, NotFoundError):
        advice = LISTS.get(command, advice)
    if command in OWNED and "lilypad login" in advice:
        advice = "set LILYPAD_EMAIL and LILYPAD_PASSWORD, then run the same command again"
    if isinstance(error, AuthenticationError) and error.details.get("reason") == "totp":
        advice = "set LILYPAD_CODE to a code of your app, and run the same command again"
    if isinstance(error, InvalidRequestError) or type(error) is LilypadError:
        advice = f"lilypad {command} --help"
    if transient:
        advice = "wait, and run the same command again"
    if isinstance(error, APIConnectionError):
        advice = "check the address (--url), then run the same command again"
    if isinstance(error, APIStatusError) and error.retry_after:
        advice = f"sleep {error.retry_after:.0f}, then run the same command again"
    terminal.fail(text, advice, **facts)
    return TRANSIENT if transient else FAILED


if __name__ == "__main__":
    main()
