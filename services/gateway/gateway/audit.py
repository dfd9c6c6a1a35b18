"""What was done with accounts and keys, by whom and from where: one row for each act.

The row is written in the transaction of the act itself, so that neither is
there without the other.
"""

import ipaddress
from contextvars import ContextVar
from typing import Any

import orjson

from common.context import current
from common.postgres import Connection

# Of the request that is being answered.
address: ContextVar[str] = ContextVar("address", default="")

RECORD = (
    "insert into audit (act, account_id, address, request_id, details) values (%s, %s, %s, %s, %s)"
)


async def record(connection: Connection, act: str, account: str | None, **details: Any) -> None:
    """`details` are what tells one such act from another; never a secret."""
    await connection.execute(
        RECORD,
        [act, account, address.get(), current.get().request_id, orjson.dumps(details).decode()],
    )


def address_of(headers: dict[bytes, bytes], peer: tuple[str, int] | None) -> str:
    """Where the caller is.

    The edge sets `X-Forwarded-For` to what it believes, whatever a caller
    wrote there; of a list (one more proxy in between) the last entry is the
    edge's. Without the edge it is the peer.
    """
    forwarded = headers.get(b"x-forwarded-for", b"").rpartition(b",")[2].strip()
    given = forwarded.decode("latin-1") or (peer[0] if peer else "")
    try:
        return str(ipaddress.ip_address(given))
    except ValueError:
        return ""


def network_of(address: str) -> str:
    """Whom an address stands for when attempts are counted: whoever has one IPv6 has 2^64."""
    if ":" in address:
        return str(ipaddress.ip_network(f"{address}/64", strict=False))
    return address
