"""Disconnection of sockets whose API key or session has ended."""

import asyncio
import contextlib
import random
import time
from collections.abc import Mapping

import structlog

from common.bus import Bus
from common.contracts.access import AUTHENTICATE, KEY_REVOKED, Credentials, KeyRevoked
from common.errors import PermissionDenied, ServiceError, Unauthenticated
from common.service import listens
from realtime.client import Client

log = structlog.get_logger()

SCOPE = "monitor:read"
# How long a revocation is remembered: a client admitted a moment before may still wait for
# its slot. Longer than the gateway's answer and the slot take.
REMEMBERED_S = 60.0
# Time between two checks of every key, which find those that expired.
RECHECK_S = 30.0
# The same, after a check that failed for some key.
RETRY_S = 1.0


def revoked() -> Unauthenticated:
    return Unauthenticated(
        "the API key was revoked or has expired, or the session has ended; connect with another"
    )


def lacks_scope() -> PermissionDenied:
    return PermissionDenied(
        f"API key lacks the scope `{SCOPE}`; create one that has it, or add the scope"
    )


class Keys:
    """Watch over the keys of open sockets: revocation events, and periodic checks.

    Args:
        bus: the connection to the gateway, which authenticates keys.
        clients: the open connections, by id.
    """

    def __init__(self, bus: Bus, clients: Mapping[str, Client]) -> None:
        self.bus = bus
        self.clients = clients
        # When each key was revoked, by its id; monotonic.
        self._revoked: dict[str, float] = {}
        self._due = asyncio.Event()

    def is_revoked(self, key: str) -> bool:
        """Whether a key was revoked within the last `REMEMBERED_S`."""
        return key in self._revoked

    @listens(KEY_REVOKED, shared=False)
    async def revoke(self, event: KeyRevoked) -> None:
        """Close a key's sockets, unless the key still has the scope `monitor:read`."""
        self._revoked.pop(event.key, None)
        if SCOPE in event.scopes:
            return
        now_s = time.monotonic()
        self._revoked = {k: at for k, at in self._revoked.items() if now_s - at < REMEMBERED_S}
        self._revoked[event.key] = now_s
        reason = lacks_scope() if event.scopes else revoked()
        for client in list(self.clients.values()):
            if client.key == event.key and client.account:
                client.dismiss(reason)

    def check_soon(self) -> None:
        """Check every key now, since events were lost that may include revocations."""
        self._due.set()

    async def keep_checking(self) -> None:
        """Check every key in use until cancelled."""
        while True:
            wait_s = RECHECK_S if await self._check() else RETRY_S
            with contextlib.suppress(TimeoutError):
                spread = random.uniform(0.8, 1.2)  # noqa: S311  (only to spread)
                await asyncio.wait_for(self._due.wait(), wait_s * spread)
            self._due.clear()

    async def _check(self) -> bool:
        """Check every key in use; return whether all could be checked."""
        complete = True
        for token in {c.token for c in self.clients.values() if c.account and c.key}:
            try:
                access = await self.bus.call(AUTHENTICATE, Credentials(token=token, connected=True))
            except Unauthenticated:
                self._dismiss(token, revoked())
            except ServiceError as error:
                log.warning("key not checked", error=error.message)
                complete = False
            else:
                if SCOPE not in access.scopes:
                    self._dismiss(token, lacks_scope())
        return complete

    def _dismiss(self, token: str, reason: ServiceError) -> None:
        for client in [c for c in self.clients.values() if c.token == token]:
            client.dismiss(reason)
