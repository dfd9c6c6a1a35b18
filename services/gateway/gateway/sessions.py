"""Sessions of browsers, and the short-lived tokens of their sockets.

A session is a random token in a cookie and its SHA-256 in a table: a stolen
table opens nothing, and deleting a row ends the session on every replica at
once.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import nats.errors
import structlog
from pydantic import Field

from common.bus import Bus
from common.contracts import Message
from common.contracts.access import KEY_REVOKED, KeyRevoked
from common.errors import Conflict, NotFound, PermissionDenied, Unauthenticated
from common.postgres import Connection, Database
from gateway import audit
from gateway.accounts import Login

log = structlog.get_logger()

# `__Host-`: sent only over a secure origin and to this host (browsers treat http://127.0.0.1 and
# http://localhost as secure).
COOKIE = "__Host-session"
ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"
# Lifetime without a request, and absolute lifetime.
IDLE_S = 2 * 3600
LIFETIME_S = 24 * 3600
# How often the time of a session's last request is written, in seconds.
SEEN_INTERVAL_S = 60
# Long enough to connect and upgrade; a page asks for a new one before it connects again.
SOCKET_TOKEN_S = 300
SOCKET_PREFIX = "lmg_socket_"

ALIVE = (
    f"seen_at > now() - interval '{IDLE_S} seconds'"
    f" and created_at > now() - interval '{LIFETIME_S} seconds'"
)

# A session's public id in SQL, as `_id` makes it.
ID = "'session_' || left(encode(hash, 'hex'), 24)"


class SocketToken(Message):
    """Token for `auth: {token}` of a socket; it ends with the session."""

    token: str = Field(description="The token, which opens sockets for five minutes.")
    expires_at: datetime = Field(description="Expiry of the token.")


class Session(Message):
    id: str = Field(description="Id of the session.")
    created_at: datetime = Field(description="Time of the login.")
    seen_at: datetime = Field(description="Last request, within a minute or so.")
    current: bool = Field(description="Whether this request came with it.")


class SessionList(Message):
    """The account's sessions, newest first."""

    sessions: list[Session] = Field(description="The account's sessions, newest first.")


class Sessions:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus
        self._notes = audit.Notes(database)

    async def begin(self, login: Login, previous: str | None) -> str:
        """Start a session and return its token; end the browser's previous session.

        Raises:
            Unauthenticated: the password was changed since it was checked.
        """
        account = login.account
        token = secrets.token_urlsafe(32)
        async with self.database.connection() as connection:
            # Locked, so that a change of the password comes before this or ends the session.
            cursor = await connection.execute(
                "select 1 from accounts where id = %s and password = %s for share",
                [account, login.proof],
            )
            if await cursor.fetchone() is None:
                raise Unauthenticated("the password was changed; log in again")
            before = await _delete(connection, previous) if previous else None
            await connection.execute(
                "insert into sessions (hash, account_id) values (%s, %s)", [_hash(token), account]
            )
            await audit.record(connection, "logged_in", account)
        if before is not None and previous:
            await self._publish_end_of(before, previous)
        return token

    async def find(self, token: str) -> str:
        """Return the session's account.

        Raises:
            Unauthenticated: the session does not exist, or has ended.
        """
        hashed = _hash(token)
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                f"select account_id, seen_at < now() - interval '{SEEN_INTERVAL_S} seconds'"  # noqa: S608  (constants)
                f" from sessions where hash = %s and {ALIVE}",
                [hashed],
            )
            row = await cursor.fetchone()
            if row is None:
                raise Unauthenticated("the session has ended; log in again")
            if row[1]:
                await connection.execute(
                    "update sessions set seen_at = now() where hash = %s", [hashed]
                )
        account: str = row[0]
        return account

    async def end(self, token: str) -> None:
        """End a session on every replica, and close its sockets."""
        async with self.database.connection() as connection:
            account = await _delete(connection, token)
            if account is not None:
                await audit.record(connection, "logged_out", account)
        if account is not None:
            await self._publish_end_of(account, token)

    async def list(self, account: str, current: str | None) -> SessionList:
        """List the account's sessions; `current` is the token of the caller's own, if any."""
        own = _hash(current) if current else None
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select hash, created_at, seen_at from sessions"  # noqa: S608  (constants)
                f" where account_id = %s and {ALIVE} order by created_at desc, hash",
                [account],
            )
            rows = await cursor.fetchall()
        return SessionList(
            sessions=[
                Session(id=_id(hash), created_at=created, seen_at=seen, current=hash == own)
                for hash, created, seen in rows
            ]
        )

    async def end_by_id(self, account: str, id: str) -> None:
        """End one session; raises NotFound, also for another account's."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                f"delete from sessions where account_id = %s and {ID} = %s",  # noqa: S608  (constants)
                [account, id],
            )
            ended = cursor.rowcount == 1
            act = "session_ended" if ended else "session_not_found"
            await audit.record(connection, act, account, session=audit.as_id(id))
        if not ended:
            raise NotFound("no such session; GET /v1/api/sessions lists them")
        await self._publish_end(account, id)

    async def replace_password(self, login: Login, hashed: str, current: str | None) -> None:
        """Store a new password and end all sessions except the current one.

        Raises:
            Conflict: the password was changed since it was checked.
        """
        account = login.account
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select 1 from accounts where id = %s and password = %s for no key update",
                [account, login.proof],
            )
            if await cursor.fetchone() is None:
                raise Conflict("the password was changed meanwhile; log in again", status=409)
            ended = await store_password(connection, account, hashed, current)
            await audit.record(connection, "password_changed", account, ended=len(ended))
        await self.publish_ends(account, ended)

    async def publish_ends(self, account: str, ids: Sequence[str]) -> None:
        """Publish the ends of sessions and keys, which close their sockets on every replica."""
        for id in ids:
            await self._publish_end(account, id)

    async def _publish_end_of(self, account: str, token: str) -> None:
        await self._publish_end(account, _id(_hash(token)))

    async def _publish_end(self, account: str, id: str) -> None:
        """Publish the end of a session, which closes its sockets on every replica."""
        try:
            await self.bus.publish(KEY_REVOKED, KeyRevoked(account=account, key=id), account, id)
        except (nats.errors.Error, OSError):
            log.warning("end of a session not published")

    async def refuse_cross_site(self, headers: dict[bytes, bytes], *, changes: bool = True) -> None:
        """Raise PermissionDenied for a request that another site made the browser send.

        `changes`: whether the request can change anything.
        """
        if _is_same_origin(headers, changes):
            return
        hashed = _hash(token_in(headers) or "")
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id from sessions where hash = %s", [hashed]
            )
            row = await cursor.fetchone()
        await self._notes.note("cross_site_refused", row[0] if row else None)
        raise PermissionDenied(
            "the request comes from another site; send it from this one, or use an API key"
        )

    async def make_socket_token(self, account: str, session: str | None) -> SocketToken:
        """Create a socket token of the account; if `session` is given, it ends with the session.

        Raises:
            Unauthenticated: the session has just ended.
        """
        token = SOCKET_PREFIX + secrets.token_urlsafe(32)
        expires_at = datetime.now(UTC) + timedelta(seconds=SOCKET_TOKEN_S)
        hashed = _hash(session) if session else None
        async with self.database.connection() as connection:
            if hashed is not None:
                # The session cannot end between this and the next statement.
                cursor = await connection.execute(
                    "select 1 from sessions where hash = %s for key share", [hashed]
                )
                if await cursor.fetchone() is None:
                    raise Unauthenticated("the session has ended; log in again")
            await connection.execute(
                "insert into socket_tokens (hash, account_id, session_hash, expires_at)"
                " values (%s, %s, %s, %s)",
                [_hash(token), account, hashed, expires_at],
            )
            await audit.record(connection, "socket_token_made", account)
        return SocketToken(token=token, expires_at=expires_at)


def is_socket_token(token: str) -> bool:
    return token.startswith(SOCKET_PREFIX)


async def find_by_socket_token(
    database: Database, token: str, *, connected: bool
) -> tuple[str, str]:
    """Return the account and session ("": none) of a socket token; raise Unauthenticated.

    `connected`: whether its socket is open already, and so ends with the session alone.
    """
    async with database.connection() as connection:
        cursor = await connection.execute(
            "select socket_tokens.account_id, session_hash from socket_tokens"  # noqa: S608  (constants)
            " left join sessions on sessions.hash = session_hash"
            " where socket_tokens.hash = %s and (%s or expires_at > now())"
            f" and (session_hash is null or {ALIVE})",
            [_hash(token), connected],
        )
        row = await cursor.fetchone()
    if row is None:
        raise Unauthenticated(
            "the socket token is unknown or expired; create another with POST /v1/api/socket-tokens"
        )
    return row[0], "" if row[1] is None else _id(row[1])


async def session_ids(connection: Connection, account: str) -> list[str]:
    """List the public ids of the account's sessions."""
    cursor = await connection.execute(
        f"select {ID} from sessions where account_id = %s",  # noqa: S608  (a constant)
        [account],
    )
    return [row[0] for row in await cursor.fetchall()]


async def store_password(
    connection: Connection, account: str, hashed: str, current: str | None = None
) -> list[str]:
    """Store a password's hash and end all sessions but `current`; return the ended ids."""
    await connection.execute("update accounts set password = %s where id = %s", [hashed, account])
    cursor = await connection.execute(
        "delete from sessions where account_id = %s and hash is distinct from %s"  # noqa: S608  (constants)
        f" returning {ID}",
        [account, _hash(current) if current else None],
    )
    ended = [row[0] for row in await cursor.fetchall()]
    await connection.execute(
        "delete from socket_tokens where account_id = %s and session_hash is null", [account]
    )
    return ended


async def forget_old(connection: Connection) -> None:
    # A session's tokens are deleted with it: a socket may still be open with them.
    await connection.execute(
        "delete from socket_tokens where expires_at < now() and session_hash is null"
    )
    await connection.execute(f"delete from sessions where not ({ALIVE})".encode())  # noqa: S608  (constants)


def token_in(headers: dict[bytes, bytes]) -> str | None:
    """Return the session's token from the cookies, if any."""
    for cookie in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = cookie.strip().partition("=")
        if name == COOKIE and value:
            return value
    return None


def set_cookie(token: str) -> str:
    return f"{COOKIE}={token}; {ATTRIBUTES}"


def clear_cookie() -> str:
    return f"{COOKIE}=; Max-Age=0; {ATTRIBUTES}"


def _is_same_origin(headers: dict[bytes, bytes], changes: bool) -> bool:
    """Return whether the headers say that one of our own pages sent the request.

    Browsers report the sender in `Sec-Fetch-Site`, older ones only in `Origin`, and with a GET in
    neither: another site cannot read the answer. A request that changes something and has neither
    header is not a browser's, so a session's cookie does not belong in it. A foreign `Origin` is
    refused whatever `Sec-Fetch-Site` says.
    """
    site, origin = headers.get(b"sec-fetch-site"), headers.get(b"origin")
    scheme = headers.get(b"x-forwarded-proto", b"http")
    if origin not in (None, scheme + b"://" + headers.get(b"host", b"")):
        return False
    # `none`: the person typed the address or opened a bookmark, so no page is the origin.
    if site in (b"same-origin", b"none"):
        return True
    return site is None and (origin is not None or not changes)


async def _delete(connection: Connection, token: str) -> str | None:
    """Delete a session; return its account, if it existed."""
    cursor = await connection.execute(
        "delete from sessions where hash = %s returning account_id", [_hash(token)]
    )
    row = await cursor.fetchone()
    return row[0] if row else None


def _id(hashed: bytes) -> str:
    """Return a session's public id, which grants no access."""
    return f"session_{hashed.hex()[:24]}"


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
