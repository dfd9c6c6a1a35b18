"""Access: authentication by the gateway, and events about keys and deleted accounts."""

from common.contracts import Event, Message, Rpc


class Credentials(Message):
    """An API key, or the short-lived token of a page's socket.

    `connected`: the socket is there already. Such a token is good for as long as the session, then,
    and nothing is taken on trust.
    """

    token: str
    connected: bool = False


class Access(Message):
    """The account and the key or session that a token belongs to.

    `key` is the key's id, or the session's; empty for a token that was made with the password.
    """

    account: str
    key: str
    scopes: list[str]


class KeyRevoked(Message):
    """A key that was revoked or whose scopes changed. Subject tokens: account, key id.

    `scopes`: what it may still; empty when it is revoked, and refused from now on. So is a session
    that was ended.
    """

    account: str
    key: str
    scopes: list[str] = []


class AccountDeleted(Message):
    """A deleted account, published until every service confirms that its data are deleted.

    `settled`: no request of the account can be under way any more.
    """

    account: str
    settled: bool


class AccountErased(Message):
    """A service's confirmation that it holds no data of a deleted account."""

    account: str
    service: str
    settled: bool


# Refused with Unauthenticated (2001), or Unavailable when the database cannot be asked.
AUTHENTICATE = Rpc("rpc.gateway.authenticate", Credentials, Access, repeatable=True)
KEY_REVOKED = Event("event.key.revoked", KeyRevoked)
ACCOUNT_DELETED = Event("event.account.deleted", AccountDeleted)
ACCOUNT_ERASED = Event("event.account.erased", AccountErased)
