"""The commands `login`, `logout`, `keys`, `usage`, `schema` and `demo`."""

import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilypad_client.cli import credentials
from lilypad_client.cli.session import (
    Email,
    LoginError,
    PasswordStdin,
    Session,
    command,
    owner_command,
)
from lilypad_client.cli.terminal import table
from lilypad_client.errors import LilypadError

if TYPE_CHECKING:
    from lilypad_client import LilypadClient

SCOPES = """generate, benchmark, monitor:read or monitor:write; all by default. Repeatable."""

app = typer.Typer(rich_markup_mode=None)
keys = typer.Typer(help="Create, list and revoke API keys; needs the account's password.")
app.add_typer(keys, name="keys")


class NoStackError(LilypadError):
    advice = "clone the repository, and run there: lilypad demo"


@command(app)
def login(
    session: Session,
    email: Email = None,
    *,
    password_stdin: PasswordStdin = False,
    key_stdin: Annotated[
        bool, typer.Option("--key-stdin", help="Read an API key from standard input.")
    ] = False,
    register: Annotated[bool, typer.Option("--register", help="Create the account first.")] = False,
) -> None:
    """Store an API key for later commands: an existing or a new one."""
    if key_stdin or (not email and not register and session.terminal.prompts):
        key = sys.stdin.readline().strip() if key_stdin else _ask_for_key()
        if not key:
            raise LoginError("no API key was given")
        url = session.url
    else:
        credentials.check()
        with session.owner(email, password_stdin=password_stdin) as owner:
            if register:
                owner.account.register()
            key, url = owner.keys.create(f"lilypad on {platform.node()}").key, session.url
    with session.connect(key, url) as client:
        # An invalid key is not stored.
        next(iter(client.benchmarks.list(page_size=1)), None)
        where = credentials.save(client.base_url, key)
    data = {"url": client.base_url, "kept": where}
    session.terminal.show(
        data, lambda out: out.print(f"The key is stored in {where}.", soft_wrap=True)
    )


@command(app)
def logout(session: Session) -> None:
    """Delete the key that `login` stored; it stays valid: see `lilypad keys revoke`."""
    url = credentials.forget()
    message = f"The key for {url} is deleted." if url else "No key was stored."
    session.terminal.show({"url": url}, lambda out: out.print(message, soft_wrap=True))


def _ask_for_key() -> str:
    key: str = typer.prompt("API key", hide_input=True, err=True)
    return key.strip()


@owner_command(keys, "list")
def list_keys(session: Session, owner: "LilypadClient") -> None:
    """List the account's keys, without their secrets."""
    listed = owner.keys.list()
    columns = dict.fromkeys(("id", "name", "prefix", "scopes", "expires", "last used"), "left")
    rows = [
        [key.id, key.name, key.prefix, " ".join(key.scopes), key.expires_at, key.last_used_at]
        for key in listed.keys
    ]
    session.terminal.show(listed.to_dict(), lambda out: table(out, columns, rows))


@owner_command(keys, "create")
def create_key(
    session: Session,
    owner: "LilypadClient",
    name: str,
    scope: Annotated[list[str] | None, typer.Option(help=SCOPES)] = None,
) -> None:
    """Create an API key and print it. It is never shown again."""
    fields: dict[str, Any] = {"scopes": list(scope)} if scope else {}
    key = owner.keys.create(name, **fields)
    session.terminal.show(key.to_dict(), lambda out: out.print(key.key))


@owner_command(keys, "revoke")
def revoke_key(session: Session, owner: "LilypadClient", id: str) -> None:
    """Revoke a key at once."""
    owner.keys.revoke(id)
    session.terminal.show({"revoked": id}, lambda out: out.print(f"Revoked {id}."))


@command(app)
def usage(session: Session, days: Annotated[int, typer.Option(min=1, max=365)] = 30) -> None:
    """Show requests per key and day, newest first, and errors by code."""
    usage_rows = [row.to_dict() for row in session.client.keys.usage(days)]
    kinds = ("generate", "verify", "benchmark", "record", "monitor")
    columns = dict.fromkeys(("day", "key"), "left") | dict.fromkeys(kinds, "right")
    columns["errors"] = "left"
    rows = [[row["day"], row["keyName"], *map(row.get, kinds), _errors(row)] for row in usage_rows]
    session.terminal.show({"usage": usage_rows}, lambda out: table(out, columns, rows))


def _errors(row: dict[str, Any]) -> str:
    return ", ".join(f"{code}: {number}" for code, number in row.get("errors", {}).items())


@command(app)
def schema(
    session: Session,
    name: Annotated[str | None, typer.Argument(help="Such as benchmark, or keys.create.")] = None,
) -> None:
    """Print the JSON Schema of a command's output with --json."""
    import json  # noqa: PLC0415  (beside its only use)

    schemas = json.loads((Path(__file__).parent / "schemas.json").read_text())
    if name is None:
        session.terminal.print_json(schemas)
    elif name in schemas["properties"]:
        chosen = {"$schema": schemas["$schema"], **schemas["properties"][name]}
        session.terminal.print_json({**chosen, "$defs": schemas["$defs"]})
    else:
        raise typer.BadParameter(f"one of: {', '.join(schemas['properties'])}")


@command(app)
def demo(session: Session) -> None:
    """Run the demonstration on this machine, from a checkout of the repository."""
    import subprocess  # noqa: PLC0415  (slow to import)

    del session
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "deploy" / "local" / "demo.py").exists() and (folder / "Makefile").exists():
            raise typer.Exit(subprocess.run(["make", "demo"], cwd=folder, check=False).returncode)
    raise NoStackError("no checkout of the repository here")
