"""The audit log: one row for each act on an account or key, with the caller's address.

The row is written in the transaction of the act itself, so that neither
exists without the other.
"""

import ipaddress
import math
import re
import time
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import orjson
import structlog

from common.context import current
from common.errors import ServiceError
from common.postgres import Connection, Database
from gateway.memory import remember

log = structlog.get_logger()

# Origin of the current request, unparsed: few requests need it.
origin: ContextVar[tuple[bytes, str]] = ContextVar("origin", default=(b"", ""))

ID = re.compile(r"[a-z]{2,8}_[0-9A-Za-z]{1,32}")

# Notes in memory; the oldest are evicted first.
MAX_NOTES = 10_000

RECORD = (
    "insert into audit (act, account_id, address, request_id, details) values (%s, %s, %s, %s, %s)"
)


async def record(connection: Connection, act: str, account: str | None, **details: Any) -> None:
    """Record an act in the transaction of the act; `details` never hold a secret."""
    await connection.execute(
        RECORD,
        [act, account, address(), current.get().request_id, orjson.dumps(details).decode()],
    )


async def begin(database: Database, act: str, account: str, **details: Any) -> int:
    """Record an act of another service before it happens; raise Unavailable if that fails."""
    async with database.connection() as connection:
        await record(connection, act, account, **details)
        row = await (await connection.execute("select lastval()")).fetchone()
    assert row is not None
    return int(row[0])


async def complete(database: Database, row: int, **details: Any) -> None:
    """Add the outcome of an act to its row; a failure is only logged."""
    try:
        async with database.connection() as connection:
            await connection.execute(
                "update audit set details = details || %s::jsonb where id = %s",
                [orjson.dumps(details).decode(), row],
            )
    except ServiceError as error:
        log.warning("audit not completed", row=row, error=error.message)


async def note(database: Database, act: str, account: str | None, **details: Any) -> None:
    """Record a refusal in a row of its own; a failure is only logged."""
    try:
        async with database.connection() as connection:
            await record(connection, act, account, **details)
    except ServiceError as error:
        log.warning("audit not written", act=act, account=account, error=error.message)


class Notes:
    """Refusals, recorded at most once a minute for the same caller and act."""

    def __init__(self, database: Database) -> None:
        self.database = database
        # When it was noted, on the monotonic clock.
        self._noted: dict[tuple[str, ...], float] = {}

    async def note(
        self, act: str, account: str | None, *, of: str | None = None, **details: str
    ) -> None:
        """Record a refusal at most once a minute; `of` identifies the caller, and is not stored."""
        same = account or "" if of is None else of
        key, now = (network(), act, same, *details.values()), time.monotonic()
        if self._noted.get(key, -math.inf) > now - 60:
            return
        remember(self._noted, key, now, MAX_NOTES)
        await note(self.database, act, account, **details)


def as_id(text: str) -> str:
    """Return the text if it can be an id, else a placeholder: it may be a pasted key."""
    return text if ID.fullmatch(text) else "(no id)"


def remember_origin(headers: dict[bytes, bytes], scope: MutableMapping[str, Any]) -> None:
    peer = scope.get("client")
    origin.set((headers.get(b"x-forwarded-for", b""), peer[0] if peer else ""))


def address() -> str:
    """Return the caller's network address.

    The edge overwrites `X-Forwarded-For` with the address that it trusts; in a
    list (one more proxy in between) the last entry is the edge's. Without the
    edge, it is the peer's address.
    """
    forwarded, peer = origin.get()
    try:
        address_text = forwarded.rpartition(b",")[2].strip().decode("latin-1") or peer
        parsed = ipaddress.ip_address(address_text)
        # An IPv4-mapped address (::ffff:10.0.0.1) counts as IPv4: all of these share one /64.
        return str((parsed.version == 6 and parsed.ipv4_mapped) or parsed)
    except ValueError:
        return ""


def network() -> str:
    """Return the network that attempts are counted for: an IPv4 address, or an IPv6 /64."""
    caller = address()
    if ":" in caller:
        return str(ipaddress.ip_network(f"{caller}/64", strict=False))
    return caller
