"""What was done with accounts and keys, by whom and from where: one row for each act.

The row is written in the transaction of the act itself, so that neither is
there without the other.
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

# Where the request that is being answered comes from, as it was told: few requests need to know.
origin: ContextVar[tuple[bytes, str]] = ContextVar("origin", default=(b"", ""))

ID = re.compile(r"[a-z]{2,8}_[0-9A-Za-z]{1,32}")

# Of notes, at once; the oldest go first.
REMEMBERED = 10_000

RECORD = (
    "insert into audit (act, account_id, address, request_id, details) values (%s, %s, %s, %s, %s)"
)


async def record(connection: Connection, act: str, account: str | None, **details: Any) -> None:
    """`details` are what tells one such act from another; never a secret."""
    await connection.execute(
        RECORD,
        [act, account, address(), current.get().request_id, orjson.dumps(details).decode()],
    )


async def note(database: Database, act: str, account: str | None, **details: Any) -> None:
    """A row of its own, for what was refused: the refusal stands even if it cannot be written."""
    try:
        async with database.connection() as connection:
            await record(connection, act, account, **details)
    except ServiceError as error:
        log.warning("not in the audit", act=act, account=account, error=error.message)


class Notes:
    """`note`, the same of one caller once a minute: who tries a lot is not to fill the table."""

    def __init__(self, database: Database) -> None:
        self.database = database
        # When it was noted, on the monotonic clock.
        self._noted: dict[tuple[str, ...], float] = {}

    async def note(
        self, act: str, account: str | None, *, of: str | None = None, **details: str
    ) -> None:
        """`of`: what tells it from others in place of the account, and is not written."""
        same = account or "" if of is None else of
        what, now = (network(), act, same, *details.values()), time.monotonic()
        if self._noted.get(what, -math.inf) > now - 60:
            return
        remember(self._noted, what, now, REMEMBERED)
        await note(self.database, act, account, **details)


def as_id(text: str) -> str:
    """What stands where an id should, if it can be one: people paste their keys everywhere."""
    return text if ID.fullmatch(text) else "(no id)"


def remember_origin(headers: dict[bytes, bytes], scope: MutableMapping[str, Any]) -> None:
    peer = scope.get("client")
    origin.set((headers.get(b"x-forwarded-for", b""), peer[0] if peer else ""))


def address() -> str:
    """Where the caller is.

    The edge sets `X-Forwarded-For` to what it believes, whatever a caller
    wrote there; of a list (one more proxy in between) the last entry is the
    edge's. Without the edge it is the peer.
    """
    forwarded, peer = origin.get()
    try:
        given = forwarded.rpartition(b",")[2].strip().decode("latin-1") or peer
        parsed = ipaddress.ip_address(given)
        # ::ffff:10.0.0.1, as some write it: all of these are in one /64.
        return str((parsed.version == 6 and parsed.ipv4_mapped) or parsed)
    except ValueError:
        return ""


def network() -> str:
    """Whom the address stands for when attempts are counted: whoever has one IPv6 has 2^64."""
    caller = address()
    if ":" in caller:
        return str(ipaddress.ip_network(f"{caller}/64", strict=False))
    return caller
