"""The account and its keys. Requires the account's password: `account=(email, password)`."""

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
    """Operations on the account whose credentials the client has."""

    @operation
    def register(self) -> Flow[types.Account]:
        """Register the account. Then create a key: `client.keys.create("laptop")`."""
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
        """Enable or disable the beta (v2) for all of the account's keys."""
        return self._call(operations.CHANGE_ACCOUNT, body=camel(fields))

    @operation
    def create_socket_token(self) -> Flow[types.SocketToken]:
        """Create a short-lived token that a web page's socket presents instead of an API key."""
        return self._call(operations.CREATE_SOCKET_TOKEN)

    @operation
    def change_password(self, current: str, new: str) -> Flow[None]:
        """Change the password and end other sessions. Then create a client with the new one."""
        return self._call(operations.CHANGE_PASSWORD, body={"current": current, "new": new})

    @operation
    def list_sessions(self) -> Flow[types.SessionList]:
        """List the account's sessions, newest first."""
        return self._call(operations.LIST_SESSIONS)

    @operation
    def end_session(self, id: str) -> Flow[None]:
        """End a session and close its sockets."""
        return self._call(operations.END_SESSION, session_id=id)

    @operation
    def delete(self) -> Flow[None]:
        """Delete the account and all its data. This cannot be undone."""
        return self._call(operations.DELETE_ACCOUNT, body={"password": self._password("delete")})

    @operation
    def start_totp(self) -> Flow[types.TotpSecret]:
        """Create a secret for an authenticator app; `confirm_totp` enables the second factor."""
        return self._call(operations.START_TOTP, body={"password": self._password("start_totp")})

    @operation
    def confirm_totp(self, code: str) -> Flow[types.RecoveryCodes]:
        """Enable the second factor with the app's first code. Store the returned recovery codes."""
        return self._call(operations.CONFIRM_TOTP, body={"code": code})

    @operation
    def stop_totp(self) -> Flow[None]:
        """Disable the second factor. Requires `account=(email, password, code)`."""
        return self._call(operations.STOP_TOTP, body={"password": self._password("stop_totp")})

    @operation
    def store_hub_token(self, token: str) -> Flow[types.StoredHubToken]:
        """Store a Hub token, which gives access to this account's private models."""
        return self._call(operations.STORE_HUB_TOKEN, body={"token": token})

    @operation
    def check_hub_token(self) -> Flow[types.StoredHubToken]:
        """Check whether the Hub still accepts the stored token."""
        return self._call(operations.CHECK_HUB_TOKEN)

    @operation
    def delete_hub_token(self) -> Flow[None]:
        """Delete the stored Hub token."""
        return self._call(operations.DELETE_HUB_TOKEN)

    @operation
    def request_reset(self, email: str) -> Flow[None]:
        """Request an email with a link for setting a new password."""
        return self._call(operations.REQUEST_RESET, body={"email": email})

    @operation
    def confirm_reset(self, token: str, new: str) -> Flow[None]:
        """Set a new password with the token from the link, and end all sessions."""
        return self._call(operations.CONFIRM_RESET, body={"token": token, "new": new})

    def _password(self, name: str) -> str:
        if self._connection.account is None:
            raise LilypadError(f"{name} needs account=(email, password)")
        return self._connection.account[1]


class Keys(Resource[Mode]):
    """API keys of the account."""

    @stream
    def usage(self, days: int = 30, page_size: int = 100) -> Items[types.KeyUsage]:
        """Yield the number of requests per key and day. Requires an API key."""
        return self._iterate(operations.LIST_USAGE, "usage", days=days, limit=page_size)

    @operation
    def create(
        self, name: str, *, idempotency_key: str | None = None, **fields: Unpack[NewKeyFields]
    ) -> Flow[types.CreatedKey]:
        """Create an API key; only this answer contains the key itself.

        Args:
            name: to tell it from others.
            idempotency_key: your own, so that a restarted program makes no second key.
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
        """Rename a key, or change its scopes or expiry; omitted fields are unchanged."""
        return self._call(operations.CHANGE_KEY, key_id=id, body=camel(fields))

    @operation
    def revoke(self, id: str) -> Flow[None]:
        """Revoke a key: every replica refuses it from then on, and its sockets are closed."""
        return self._call(operations.REVOKE_KEY, key_id=id)
