"""A command's terminal and client, and the decorators that pass both to it."""

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec, Self

import typer

from lilypad_client.cli import credentials
from lilypad_client.cli.terminal import Terminal
from lilypad_client.errors import LilypadError

if TYPE_CHECKING:
    from lilypad_client import LilypadClient

P = ParamSpec("P")

JSON = typer.Option("--json/--text", help="Print JSON; the default where no person reads it.")
URL = typer.Option(help="Address of the service; by default LILYPAD_BASE_URL or that of the login.")
Email = Annotated[str | None, typer.Option(help="The account's address; by default LILYPAD_EMAIL.")]
PasswordStdin = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from standard input.")
]


class LoginError(LilypadError):
    advice = "set LILYPAD_API_KEY, or run: lilypad login --email EMAIL --password-stdin"


class Session:
    def __init__(self, *, json: bool | None, url: str | None) -> None:
        self.terminal = Terminal(json=json)
        self._url = url
        self._client: LilypadClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    @property
    def url(self) -> str | None:
        return self._url or credentials.load()[0]

    @property
    def client(self) -> "LilypadClient":
        if self._client is None:
            self._client = self._open()
        return self._client

    def _open(self) -> "LilypadClient":
        if self._url:
            os.environ["LILYPAD_BASE_URL"] = (
                self._url
            )  # so that the key stored for this address is used
        url, key = credentials.load()
        if not key:
            raise LoginError("no API key")
        return self.connect(key, url)

    def connect(self, key: str | None, url: str | None, **options: Any) -> "LilypadClient":
        """Create a client; the import is deferred so that `--help` starts fast."""
        from lilypad_client import LilypadClient  # noqa: PLC0415

        return LilypadClient(key, url, **options)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before an irreversible action; without a terminal, require `--yes`."""
        if not yes and not self.terminal.prompts:
            raise typer.BadParameter("this cannot be undone; repeat it with --yes")
        if not yes:
            typer.confirm(question, abort=True, err=True)

    def owner(self, email: str | None, *, password_stdin: bool) -> "LilypadClient":
        """Return a client that logs in with the password from a prompt or the environment."""
        terminal = self.terminal
        email = email or os.environ.get("LILYPAD_EMAIL")
        if not email and terminal.prompts:
            email = typer.prompt("E-mail", err=True)
        if not email:
            raise LoginError("no e-mail address")
        password = os.environ.get("LILYPAD_PASSWORD")
        if password_stdin:
            password = sys.stdin.readline().rstrip("\n")
        elif not password and terminal.prompts:
            password = typer.prompt("Password", hide_input=True, err=True)
        if not password:
            raise LoginError("no password")
        code = os.environ.get("LILYPAD_CODE")
        account = (email, password, code) if code else (email, password)
        return self.connect(None, self.url, account=account)


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


TERMINAL_OPTIONS = (
    _option("json", Annotated[bool | None, JSON], None),
    _option("url", Annotated[str | None, URL], None),
)
OWNER_OPTIONS = (
    _option("email", Email, None),
    _option("password_stdin", PasswordStdin, False),
)


def command(
    app: typer.Typer, name: str | None = None
) -> Callable[[Callable[Concatenate[Session, P], None]], Callable[..., None]]:
    """Register a function of a session as a command, with `--json` and `--url` added."""

    def register(function: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def run(*, json: bool | None, url: str | None, **options: Any) -> None:
            with Session(json=json, url=url) as session:
                function(session, **options)  # type: ignore[call-arg]  # Typer read the signature

        _, *own = inspect.signature(function).parameters.values()
        _sign(run, [*own, *TERMINAL_OPTIONS])
        return app.command(name)(run)

    return register


def owner_command(
    app: typer.Typer, name: str
) -> Callable[[Callable[Concatenate[Session, "LilypadClient", P], None]], Callable[..., None]]:
    """Register a command that also takes a client with the account's password."""

    def register(
        function: Callable[Concatenate[Session, "LilypadClient", P], None],
    ) -> Callable[..., None]:
        @functools.wraps(function)
        def run(
            session: Session, *, email: str | None, password_stdin: bool, **options: Any
        ) -> None:
            with session.owner(email, password_stdin=password_stdin) as owner:
                function(session, owner, **options)  # type: ignore[call-arg]  # as above

        session, _, *own = inspect.signature(function).parameters.values()
        _sign(run, [session, *own, *OWNER_OPTIONS])
        return command(app, name)(run)  # type: ignore[arg-type]  # Typer names each option

    return register


def _sign(run: Callable[..., None], parameters: list[inspect.Parameter]) -> None:
    """Give a function the signature from which Typer builds arguments and options."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    signed = [
        parameter if parameter.name == "session" else parameter.replace(kind=keyword)
        for parameter in parameters
    ]
    run.__signature__ = inspect.Signature(signed)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in signed}
