"""Authentication of API keys, cached for a few seconds since every request needs it.

API keys are found by their SHA-256, and never looked up if their checksum is
wrong. A key in use is looked up again within five seconds, together with the
others in use, so that no request waits for it. An event evicts a revoked
key from every replica at once.
"""

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from common.background import Repeated
from common.contracts.access import (
    AUTHENTICATE,
    KEY_REVOKED,
    Access,
    Credentials,
    KeyRevoked,
)
from common.errors import ServiceError, Unauthenticated
from common.postgres import Database
from common.service import answers, listens
from gateway import audit, keyring, keys, sessions
from gateway.memory import remember

log = structlog.get_logger()

# Max age of the database's answer about a key.
MAX_TRUST_S = 5.0
RENEW_INTERVAL_S = 2.0
# A key that was not used for this long is not renewed; its next use looks it up, which costs about
# as much as renewing it ten times.
MAX_IDLE_S = 30.0
MAX_RENEWED_AT_ONCE = 1_000
# Max cached keys; the oldest are evicted first.
MAX_TRUSTED = 10_000
WRITE_LAST_USE_INTERVAL_S = 10.0

LOOK_UP = """
select hash, account_id, id, scopes, extract(epoch from expires_at - now())::float8
from keys
where hash = any(%b) and revoked_at is null and (expires_at is null or expires_at > now())
"""


@dataclass(frozen=True, slots=True)
class Caller:
    """An authenticated caller: the account, its key (None: a person), and the key's scopes.

    `session`: the token of the session that authenticated a person, if one did. `owes_code`:
    whether the body must prove the second factor, if the account has one.
    """

    account: str
    key: str | None
    scopes: frozenset[str]
    session: str | None = field(default=None, repr=False)
    owes_code: bool = True


@dataclass(slots=True)
class Trust:
    """A cached key, trusted `until` one monotonic time, and last `used` at another."""

    caller: Caller
    until: float
    used: float


class Authentication:
    def __init__(self, database: Database) -> None:
        self.database = database
        self._notes = audit.Notes(database)
        # By the key's hash: no key itself stays in memory.
        self._trusted: dict[bytes, Trust] = {}
        self._used: dict[str, float] = {}
        # Counts revocations, so that an answer from before one is not cached after it.
        self._revocations = 0

    async def authenticate(self, token: str, *, anew: bool = False) -> Caller:
        """Return the caller that an API key belongs to; `anew` bypasses the cache.

        Raises:
            Unauthenticated: unknown, mistyped, expired or revoked.
            Unavailable: the database is unavailable; no caller is admitted unchecked.
        """
        hashed, now = keys.hash_key(token), time.monotonic()
        trust = self._trusted.get(hashed)
        if trust is None or anew or trust.until <= now:
            if not keys.is_well_formed(token):
                raise Unauthenticated(keys.fault(token))
            caller = (await self._look_up([hashed])).get(hashed)
            if caller is None:
                await self._note_refused(hashed)
                raise Unauthenticated("the API key is unknown, expired or revoked")
        else:
            caller, trust.used = trust.caller, now
        assert caller.key is not None
        self._used[caller.key] = time.time()
        return caller

    async def _look_up(self, hashes: list[bytes]) -> dict[bytes, Caller]:
        """Look up keys in the database, and cache the answers for a while."""
        revocations, start = self._revocations, time.monotonic()
        async with self.database.connection() as connection:
            rows = await (await connection.execute(LOOK_UP, [hashes])).fetchall()
        callers = {row[0]: Caller(row[1], row[2], frozenset(row[3])) for row in rows}
        for hashed in hashes:
            if hashed not in callers:
                self._trusted.pop(hashed, None)
        if revocations == self._revocations:
            for hashed, *_, expires_in_s in rows:
                # Not beyond its expiry, which no event announces.
                until = start + min(MAX_TRUST_S, expires_in_s or MAX_TRUST_S)
                known = self._trusted.get(hashed)
                trust = Trust(callers[hashed], until, known.used if known else start)
                remember(self._trusted, hashed, trust, MAX_TRUSTED)
        return callers

    async def renew(self) -> None:
        """Look up cached keys in use again before they expire; evict other keys once expired."""
        now = time.monotonic()
        due = []
        for hashed, trust in list(self._trusted.items()):
            if trust.until <= now + 2 * RENEW_INTERVAL_S:
                if trust.used > now - MAX_IDLE_S:
                    due.append(hashed)
                elif trust.until <= now:
                    del self._trusted[hashed]
        for first in range(0, len(due), MAX_RENEWED_AT_ONCE):
            await self._look_up(due[first : first + MAX_RENEWED_AT_ONCE])

    async def keep_renewing(self) -> None:
        """Renew until canceled; a key that cannot be renewed is looked up when it is used."""
        await Repeated(self.renew, RENEW_INTERVAL_S).run()

    async def _note_refused(self, hashed: bytes) -> None:
        """Record a refused key: expired, revoked or unknown."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id, id from keys where hash = %s", [hashed]
            )
            account, key = await cursor.fetchone() or (None, "")
        await self._notes.note("key_refused", account, key=key)

    @listens(KEY_REVOKED, shared=False)
    async def forget(self, revoked: KeyRevoked) -> None:
        """Evict a key that was revoked or changed on any replica."""
        self._revocations += 1
        for hashed, trust in list(self._trusted.items()):
            if trust.caller.key == revoked.key:
                del self._trusted[hashed]

    @answers(AUTHENTICATE)
    async def check(self, credentials: Credentials) -> Access:
        """Authenticate an API key, or a page's socket token, for another service."""
        if sessions.is_socket_token(credentials.token):
            account, session = await sessions.find_by_socket_token(
                self.database, credentials.token, connected=credentials.connected
            )
            return Access(account=account, key=session, scopes=["monitor:read"])
        # A service that asks about an open socket may have missed a revocation, and so may this
        # replica.
        caller = await self.authenticate(credentials.token, anew=credentials.connected)
        return Access(account=caller.account, key=caller.key or "", scopes=sorted(caller.scopes))

    async def write_last_use(self) -> None:
        """Write the times of the keys' last uses; keep them while the database is unavailable."""
        used, self._used = self._used, {}
        if not used:
            return
        try:
            async with self.database.connection() as connection:
                await keyring.write_last_use(connection, used)
        except ServiceError as error:
            log.warning("last use not written", error=error.message)
            self._used = {**used, **self._used}

    async def keep_writing_last_use(self) -> None:
        """Write the times of the keys' last uses periodically, and once more when canceled."""
        try:
            while True:
                await asyncio.sleep(WRITE_LAST_USE_INTERVAL_S)
                await self.write_last_use()
        finally:
            await self.write_last_use()
