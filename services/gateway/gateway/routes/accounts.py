"""Routes of accounts, their sessions, and the tokens of their sockets."""

from gateway import envelope
from gateway.account_fields import (
    Account,
    AccountChange,
    AccountDeletion,
    AccountFacts,
    NewAccount,
    PasswordChange,
)
from gateway.door import Guards
from gateway.endpoint import MAX_SMALL_BODY_BYTES, Answer, Call, Route
from gateway.recovery import Reset, ResetRequest
from gateway.sessions import SessionList, SocketToken


class AccountRoutes:
    """Routes that register an account, and manage it and its sessions."""

    tag = "Accounts and keys"

    def __init__(self, guards: Guards) -> None:
        self.accounts = guards.accounts
        self.sessions = guards.sessions
        self.recovery = guards.recovery
        self.deletion = guards.deletion

    @Route(
        "POST",
        "/accounts",
        summary="Register",
        limits=("register",),
        body=NewAccount,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=Account,
        status=201,
        errors=(429,),
    )
    async def register(self, _: Call, body: NewAccount) -> Account:
        """Create an account; next create an API key with its e-mail address and password.

        The answer is the same for an address that has an account already.
        """
        return await self.accounts.register(body)

    @Route(
        "GET",
        "/account",
        summary="Get the account",
        allows="account",
        reply=AccountFacts,
    )
    async def get_account(self, call: Call, _: None) -> AccountFacts:
        """Return the account, and whether it has opted in to v2."""
        return await self.accounts.get(call.account)

    @Route(
        "PATCH",
        "/account",
        summary="Change the account",
        allows="account",
        body=AccountChange,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=AccountFacts,
    )
    async def change_account(self, call: Call, body: AccountChange) -> AccountFacts:
        """Switch the beta (`/v2/api`) on or off for all of the account's keys."""
        return await self.accounts.change(call.account, body)

    @Route(
        "POST",
        "/socket-tokens",
        summary="Create a socket token",
        allows="account",
        reply=SocketToken,
        status=201,
    )
    async def create_socket_token(self, call: Call, _: None) -> SocketToken:
        """Create a short-lived token with which a page's socket connects."""
        return await self.sessions.make_socket_token(call.account, call.session)

    @Route(
        "POST",
        "/account/password",
        summary="Change the password",
        allows="account",
        body=PasswordChange,
        code_in_body=True,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        status=204,
    )
    async def change_password(self, call: Call, body: PasswordChange) -> None:
        """Change the password; all other sessions end.

        API keys stay as they are.
        """
        login, hashed = await self.accounts.hash_new_password(
            call.account, body, owes_code=call.owes_code
        )
        await self.sessions.replace_password(login, hashed, call.session)

    @Route(
        "GET",
        "/sessions",
        summary="List sessions",
        allows="account",
        reply=SessionList,
    )
    async def list_sessions(self, call: Call, _: None) -> SessionList:
        """List the browsers in which the account is logged in."""
        return await self.sessions.list(call.account, call.session)

    @Route(
        "DELETE",
        "/sessions/{session_id}",
        summary="End a session",
        allows="account",
        status=204,
        errors=(404,),
    )
    async def end_session(self, call: Call, _: None) -> None:
        """Log a browser out, on every replica; its sockets close."""
        await self.sessions.end_by_id(call.account, call.path_parameter("session_id"))

    @Route(
        "DELETE",
        "/account",
        summary="Delete the account",
        allows="account",
        body=AccountDeletion,
        code_in_body=True,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        status=204,
    )
    async def delete_account(self, call: Call, body: AccountDeletion) -> None:
        """Delete the account with its keys, sessions, runs, metrics and alerts.

        Keys are refused at once on every replica; the other services delete what
        they hold within a minute.
        """
        await self.deletion.delete(call.account, body, owes_code=call.owes_code)

    @Route(
        "POST",
        "/account/reset",
        summary="Request a password reset",
        limits=("reset",),
        body=ResetRequest,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        status=202,
        errors=(429,),
    )
    async def request_reset(self, call: Call, body: ResetRequest) -> Answer:
        """Mail a link that works once, within an hour.

        The answer is the same for an address without an account. Without a mail
        server, the operator passes the link on.
        """
        await self.recovery.request(body.email)
        content = envelope.success(b"null", call.version, call.request_id)
        return Answer(content, status=202)

    @Route(
        "POST",
        "/account/reset/confirm",
        summary="Reset the password",
        limits=("reset",),
        body=Reset,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        status=204,
        errors=(429,),
    )
    async def confirm_reset(self, _: Call, body: Reset) -> None:
        """Set the password and end all sessions.

        The first link used for an address proves its ownership, and revokes the
        API keys created before.
        """
        await self.recovery.reset(body)
