"""The account and its keys; needs the account's password: `account=(email, password)`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lilypad_client import operations
from lilypad_client.errors import LilypadError
from lilypad_client.operation import camel
from lilypad_client.resource import Flow, Items, Mode, Resource, operation, stream

if TYPE_CHECKING:
    from typing import Unpack

    from lilypad_client import types
    from lilypad_client.params import AccountChangeFields, KeyChangeFields, NewKeyFields


class Account(Resource[Mode]):
    """The account that the client was given."""

    @operation
    def register(self) -> Flow[types.Account]:
        """Register the account; make a key next: `client.keys.create("laptop")`."""
        if self._connection.account is None:
            raise LilypadError("register needs account=(email, password)")
        email, password, *_ = self._connection.account
        return self._call(operations.REGISTER, body={"email": email, "password": password})

    @operation
    def get(self) -> Flow[types.AccountFacts]:
        """Return the account."""
        return self._call(operations.GET_ACCOUNT)

    @operation
    def change(self, **fields: Unpack[AccountChangeFields]) -> Flow[types.AccountFacts]:
        """Switch the beta (v2) on or off for all of the account's keys."""
        return self._call(operations.CHANGE_ACCOUNT, body=camel(fields))

    @operation
    def create_socket_token(self) -> Flow[types.SocketToken]:
        """Make a short-lived token with which a page's socket connects in place of a key."""
        return self._call(operations.CREATE_SOCKET_TOKEN)

    @operation
    def change_password(self, current: str, new: str) -> Flow[None]:
        """Change the password and end all other sessions; make a client with the new one next."""
        return self._call(operations.CHANGE_PASSWORD, body={"current": current, "new": new})

    @operation
    def list_sessions(self) -> Flow[types.SessionList]:
        """List where the account is logged in, newest first."""
        return self._call(operations.LIST_SESSIONS)

    @operation
    def end_session(self, id: str) -> Flow[None]:
        """End a session; its sockets close."""
        return self._call(operations.END_SESSION, session_id=id)

    @operation
    def delete(self) -> Flow[None]:
        """Delete the account with everything in it; this cannot be undone."""
        return self._call(operations.DELETE_ACCOUNT, body={"password": self._password("delete")})

    @operation
    def start_totp(self) -> Flow[types.TotpSecret]:
        """Make a secret for an authenticator app; `confirm_totp` switches it on."""
        return self._call(operations.START_TOTP, body={"password": self._password("start_totp")})

    @operation
    def confirm_totp(self, code: str) -> Flow[types.RecoveryCodes]:
        """Switch the second factor on with the app's first code; keep the recovery codes."""
        return self._call(operations.CONFIRM_TOTP, body={"code": code})

    @operation
    def stop_totp(self) -> Flow[None]:
        """End the second factor; needs `account=(email, password, code)`."""
        return self._call(operations.STOP_TOTP, body={"password": self._password("stop_totp")})

    @operation
    def store_hub_token(self, token: str) -> Flow[types.StoredHubToken]:
        """Store a token of the Hub, with which this account's private models are read."""
        return self._call(operations.STORE_HUB_TOKEN, body={"token": token})

    @operation
    def check_hub_token(self) -> Flow[types.StoredHubToken]:
        """Ask the Hub whether it still accepts the stored token."""
        return self._call(operations.CHECK_HUB_TOKEN)

    @operation
    def delete_hub_token(self) -> Flow[None]:
        """Delete the stored token."""
        return self._call(operations.DELETE_HUB_TOKEN)

    @operation
    def request_reset(self, email: str) -> Flow[None]:
        """Have a link mailed to an account's address that sets a new password."""
        return self._call(operations.REQUEST_RESET, body={"email": email})

    @operation
    def confirm_reset(self, token: str, new: str) -> Flow[None]:
        """Set a new password with the token of the mailed link; all sessions end."""
        return self._call(operations.CONFIRM_RESET, body={"token": token, "new": new})

    def _password(self, name: str) -> str:
        if self._connection.account is None:
            raise LilypadError(f"{name} needs account=(email, password)")
        return self._connection.account[1]


class Keys(Resource[Mode]):
    """API keys of the account."""

    @stream
    def usage(self, days: int = 30, page_size: int = 100) -> Items[types.KeyUsage]:
        """Yield the requests of each key on each day; needs an API key."""
        return self._iterate(operations.LIST_USAGE, "usage", days=days, limit=page_size)

    @operation
    def create(
        self, name: str, *, idempotency_key: str | None = None, **fields: Unpack[NewKeyFields]
    ) -> Flow[types.CreatedKey]:
        """Make an API key. It is shown in this answer and never again.

        Args:
            name: to tell it from others.
            idempotency_key: of your own, so that a program that starts over makes one key.
            fields: `scopes` (all when left out), `expires_at`.
        """
        body = {"name": name, **camel(fields)}
        return self._call(operations.CREATE_KEY, body=body, idempotency_key=idempotency_key)

    @operation
    def list(self) -> Flow[types.Keys]:
        """List the account's keys, without their secrets."""
        return self._call(operations.LIST_KEYS)

    @operation
    def get(self, id: str) -> Flow[types.Key]:
        """Return a key."""
        return self._call(operations.GET_KEY, key_id=id)

    @operation
    def change(self, id: str, **fields: Unpack[KeyChangeFields]) -> Flow[types.Key]:
        """Rename a key, or change its scopes or expiry; omitted fields stay as they are."""
        return self._call(operations.CHANGE_KEY, key_id=id, body=camel(fields))

    @operation
    def revoke(self, id: str) -> Flow[None]:
        """Revoke a key: every replica refuses it from now on, and its sockets are closed."""
        return self._call(operations.REVOKE_KEY, key_id=id)
