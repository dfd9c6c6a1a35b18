"""What was done with accounts and keys, by whom and from where: one row for each act.

The row is written in the transaction of the act itself, so that neither is
there without the other.
"""

import ipaddress
from collections.abc import MutableMapping
from contextvars import ContextVar
from typing import Any

import orjson

from common.context import current
from common.postgres import Connection

# Where the request that is being answered comes from, as it was told: few requests need to know.
origin: ContextVar[tuple[bytes, str]] = ContextVar("origin", default=(b"", ""))

RECORD = (
    "insert into audit (act, account_id, address, request_id, details) values (%s, %s, %s, %s, %s)"
)


async def record(connection: Connection, act: str, account: str | None, **details: Any) -> None:
    """`details` are what tells one such act from another; never a secret."""
    await connection.execute(
        RECORD,
        [act, account, address(), current.get().request_id, orjson.dumps(details).decode()],
    )


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
        return str(ipaddress.ip_address(given))
    except ValueError:
        return ""


def network() -> str:
    """Whom the address stands for when attempts are counted: whoever has one IPv6 has 2^64."""
    caller = address()
    if ":" in caller:
        return str(ipaddress.ip_network(f"{caller}/64", strict=False))
    return caller
