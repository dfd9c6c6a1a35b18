"""Who is logged in, in a browser; and the short-lived tokens of its sockets.

A session is a random token in a cookie and its SHA-256 in a table: what is
stolen from the database opens nothing, and what is deleted there is over on
every replica at once.
"""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta

import nats.errors
import structlog

from common.bus import Bus
from common.contracts import Message
from common.contracts.access import KEY_REVOKED, KeyRevoked
from common.errors import PermissionDenied, Unauthenticated
from common.postgres import Connection, Database
from gateway import audit

log = structlog.get_logger()

# `__Host-`: over a secure origin only, for this host only (browsers take
# http://127.0.0.1 and http://localhost for secure).
COOKIE = "__Host-session"
ATTRIBUTES = "Path=/; Secure; HttpOnly; SameSite=Lax"
# Ends after so long without a request, and after so long in any case, in seconds.
IDLE = 2 * 3600
LONGEST = 24 * 3600
# How often the last request of a session is written down, in seconds.
SEEN = 60
# Long enough to connect and upgrade; a page asks for a new one before it connects again.
SOCKET_TOKEN = 300
SOCKET_PREFIX = "lmg_socket_"

ALIVE = (
    f"seen_at > now() - interval '{IDLE} seconds'"
    f" and created_at > now() - interval '{LONGEST} seconds'"
)


class SocketToken(Message):
    """For `auth: {token}` of a socket; it belongs to the session and ends with it."""

    token: str
    expires_at: datetime


class Sessions:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus
        self._notes = audit.Notes(database)

    async def begin(self, account: str, previous: str | None) -> str:
        """A new session's token; the one that the browser had before is over."""
        token = secrets.token_urlsafe(32)
        async with self.database.connection() as connection:
            before = await _delete(connection, previous) if previous else None
            await connection.execute(
                "insert into sessions (hash, account_id) values (%s, %s)", [_hash(token), account]
            )
            await audit.record(connection, "logged_in", account)
        if before is not None and previous:
            await self._tell(before, previous)
        return token

    async def find(self, token: str) -> str:
        """The session's account.

        Raises:
            Unauthenticated: there is no such session, or it is over.
        """
        hashed = _hash(token)
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                f"select account_id, seen_at < now() - interval '{SEEN} seconds'"  # noqa: S608  (constants)
                f" from sessions where hash = %s and {ALIVE}",
                [hashed],
            )
            row = await cursor.fetchone()
            if row is None:
                raise Unauthenticated("the session is over; log in again")
            if row[1]:
                await connection.execute(
                    "update sessions set seen_at = now() where hash = %s", [hashed]
                )
        account: str = row[0]
        return account

    async def end(self, token: str) -> None:
        """Log out, here and on every replica."""
        async with self.database.connection() as connection:
            account = await _delete(connection, token)
            if account is not None:
                await audit.record(connection, "logged_out", account)
        if account is not None:
            await self._tell(account, token)

    async def _tell(self, account: str, token: str) -> None:
        """The session's sockets close; where this is not heard, within half a minute."""
        id = _id(_hash(token))
        try:
            await self.bus.publish(KEY_REVOKED, KeyRevoked(account=account, key=id), account, id)
        except (nats.errors.Error, OSError):
            log.warning("end of a session not told")

    async def refuse_cross_site(self, headers: dict[bytes, bytes], *, changes: bool = True) -> None:
        """Raises PermissionDenied for a request that another site had the browser make.

        `changes`: whether the request can change anything.
        """
        if _is_from_here(headers, changes):
            return
        hashed = _hash(token_in(headers) or "")
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id from sessions where hash = %s", [hashed]
            )
            row = await cursor.fetchone()
        await self._notes.note("cross_site_refused", row[0] if row else None)
        raise PermissionDenied("this request comes from another site")

    async def make_socket_token(self, account: str, session: str | None) -> SocketToken:
        """Of the person, or of the session, with which it is over.

        Raises:
            Unauthenticated: the session has just ended.
        """
        token = SOCKET_PREFIX + secrets.token_urlsafe(32)
        expires_at = datetime.now(UTC) + timedelta(seconds=SOCKET_TOKEN)
        hashed = _hash(session) if session else None
        async with self.database.connection() as connection:
            if hashed is not None:
                # It cannot end between this and the next statement.
                cursor = await connection.execute(
                    "select 1 from sessions where hash = %s for key share", [hashed]
                )
                if await cursor.fetchone() is None:
                    raise Unauthenticated("the session is over; log in again")
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
    """Whose socket token it is, and of which session ("": of none); raises Unauthenticated.

    `connected`: a socket has it already, which ends with the session and not with the token.
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
        raise Unauthenticated("the socket's token is unknown or expired; ask for a new one")
    return row[0], "" if row[1] is None else _id(row[1])


async def forget_old(connection: Connection) -> None:
    # Those of a session go with it: a socket may have been connected with them.
    await connection.execute(
        "delete from socket_tokens where expires_at < now() and session_hash is null"
    )
    await connection.execute(f"delete from sessions where not ({ALIVE})".encode())  # noqa: S608  (constants)


def token_in(headers: dict[bytes, bytes]) -> str | None:
    """The session's token among the cookies, if there is one."""
    for cookie in headers.get(b"cookie", b"").decode("latin-1").split(";"):
        name, _, value = cookie.strip().partition("=")
        if name == COOKIE and value:
            return value
    return None


def set_cookie(token: str) -> str:
    return f"{COOKIE}={token}; {ATTRIBUTES}"


def clear_cookie() -> str:
    return f"{COOKIE}=; Max-Age=0; {ATTRIBUTES}"


def _is_from_here(headers: dict[bytes, bytes], changes: bool) -> bool:
    """Not so where another site had the browser send it.

    Browsers say where a request comes from in `Sec-Fetch-Site`, older ones
    only in `Origin`, and with a GET in neither: what another site has them get
    it cannot read. Who says neither with a request that changes something is
    no browser, and has no business with a browser's cookie.
    """
    site = headers.get(b"sec-fetch-site")
    if site is not None:
        return site in (b"same-origin", b"none")
    origin = headers.get(b"origin")
    if origin is None:
        return not changes
    return origin.partition(b"://")[2] == headers.get(b"host", b"")


async def _delete(connection: Connection, token: str) -> str | None:
    """Whose session it was, if there was one."""
    cursor = await connection.execute(
        "delete from sessions where hash = %s returning account_id", [_hash(token)]
    )
    row = await cursor.fetchone()
    return row[0] if row else None


def _id(hashed: bytes) -> str:
    """What others may know of a session: it opens nothing."""
    return f"session_{hashed.hex()[:24]}"


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
