"""The commands `hub-token` and `second-factor`, which need the account's password."""

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lilypad_client.cli.session import LoginError, Session, owner_command

if TYPE_CHECKING:
    from lilypad_client import LilypadClient

app = typer.Typer(rich_markup_mode=None)
hub_token = typer.Typer(
    help="Store, check or delete the Hub token for the account's private models."
)
second_factor = typer.Typer(
    help="Require a code of an authenticator app with the password; commands read LILYPAD_CODE."
)
app.add_typer(hub_token, name="hub-token")
app.add_typer(second_factor, name="second-factor")


class NoTokenError(LoginError):
    advice = "set HF_TOKEN, then: lilypad hub-token store --email EMAIL --password-stdin"


@owner_command(hub_token, "store")
def store_hub_token(
    session: Session,
    owner: "LilypadClient",
    *,
    token_stdin: Annotated[
        bool,
        typer.Option(
            "--token-stdin", help="Read the token from standard input, below the password."
        ),
    ] = False,
) -> None:
    """Store the Hub token in HF_TOKEN. It is encrypted and never shown again."""
    token = sys.stdin.readline().strip() if token_stdin else os.environ.get("HF_TOKEN")
    if not token and session.terminal.prompts:
        token = typer.prompt("Token of the Hub", hide_input=True, err=True)
    if not token:
        raise NoTokenError("no token of the Hub")
    stored = owner.account.store_hub_token(token)
    _show_token(session, stored)


@owner_command(hub_token, "check")
def check_hub_token(session: Session, owner: "LilypadClient") -> None:
    """Check whether the Hub still accepts the stored token."""
    stored = owner.account.check_hub_token()
    _show_token(session, stored)


@owner_command(hub_token, "delete")
def delete_hub_token(session: Session, owner: "LilypadClient") -> None:
    """Delete the stored Hub token."""
    owner.account.delete_hub_token()
    session.terminal.show({"deleted": "hub-token"}, lambda out: out.print("The token is deleted."))


def _show_token(session: Session, stored: Any) -> None:
    session.terminal.show(
        stored.to_dict(),
        lambda out: out.print(f"A {stored.role} token of {stored.user}, accepted by the Hub."),
    )


@owner_command(second_factor, "start")
def start_second_factor(session: Session, owner: "LilypadClient") -> None:
    """Create a secret for an authenticator app; `confirm` then enables the second factor."""
    secret = owner.account.start_totp()

    def draw(out: Any) -> None:
        out.print(secret.uri, soft_wrap=True)
        out.print("Add it to your app, then: lilypad second-factor confirm CODE")

    session.terminal.show(secret.to_dict(), draw)


@owner_command(second_factor, "confirm")
def confirm_second_factor(session: Session, owner: "LilypadClient", code: str) -> None:
    """Enable the second factor with the app's first code, and print the recovery codes."""
    codes = owner.account.confirm_totp(code)
    session.terminal.show(codes.to_dict(), lambda out: out.print("\n".join(codes.recovery_codes)))


@owner_command(second_factor, "stop")
def stop_second_factor(session: Session, owner: "LilypadClient") -> None:
    """Disable the second factor. Requires a code in LILYPAD_CODE."""
    owner.account.stop_totp()
    session.terminal.show(
        {"stopped": "second-factor"}, lambda out: out.print("The second factor is disabled.")
    )
