"""Whose token it is: asked with every request, so remembered for a few seconds.

API keys are found by their SHA-256; a database is asked at most every five
seconds for each, and never for one whose checksum is wrong. What is revoked
is forgotten at once on every replica, by an event.
"""

import asyncio
import time
from dataclasses import dataclass, field

import structlog

from common.contracts.access import Access, Credentials, KeyRevoked
from common.errors import ServiceError, Unauthenticated
from common.postgres import Database
from gateway import audit, keyring, keys, sessions
from gateway.memory import remember

log = structlog.get_logger()

# How long a key is taken on trust before the database is asked again, in seconds.
TRUSTED = 5.0
# Keys remembered at once; the oldest are forgotten first.
REMEMBERED = 10_000
# How often the last use of keys is written, in seconds.
WRITTEN = 10.0


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the account, which of its keys (None: a person), and what it may.

    `session`: the token of the session that a person is known by, if by one.
    """

    account: str
    key: str | None
    scopes: frozenset[str]
    session: str | None = field(default=None, repr=False)


class Authentication:
    def __init__(self, database: Database) -> None:
        self.database = database
        self._notes = audit.Notes(database)
        # By the key's hash: no key itself stays in memory.
        self._trusted: dict[bytes, tuple[Caller, float]] = {}
        self._used: dict[str, float] = {}
        # Counts revocations, so that an answer of before one is not kept after it.
        self._revocations = 0

    async def authenticate(self, token: str, *, anew: bool = False) -> Caller:
        """Who an API key belongs to; `anew` asks the database in any case.

        Raises:
            Unauthenticated: unknown, mistyped, expired or revoked.
            Unavailable: the database cannot be asked; nobody is let in unchecked.
        """
        hashed = keys.hash_key(token)
        trusted = self._trusted.get(hashed)
        if trusted is None or anew or trusted[1] <= time.monotonic():
            caller = await self._look_up(token, hashed)
        else:
            caller = trusted[0]
        assert caller.key is not None
        self._used[caller.key] = time.time()
        return caller

    async def _look_up(self, token: str, hashed: bytes) -> Caller:
        if not keys.is_well_formed(token):
            raise Unauthenticated("this is not an API key; check that it was copied whole")
        revocations, asked = self._revocations, time.monotonic()
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id, id, scopes,"
                " extract(epoch from expires_at - now())::float8 from keys"
                " where hash = %s and revoked_at is null"
                " and (expires_at is null or expires_at > now())",
                [hashed],
            )
            row = await cursor.fetchone()
        if row is None:
            self._trusted.pop(hashed, None)
            await self._note_refused(hashed)
            raise Unauthenticated("the API key is unknown, expired or revoked")
        caller = Caller(row[0], row[1], frozenset(row[2]))
        if revocations == self._revocations:
            # Not beyond its end, which no event tells.
            seconds = TRUSTED if row[3] is None else min(TRUSTED, row[3])
            trusted = caller, asked + seconds
            remember(self._trusted, hashed, trusted, REMEMBERED)
        return caller

    async def _note_refused(self, hashed: bytes) -> None:
        """A key that is over, or was never made: somebody tries, or goes on with what is over."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id, id from keys where hash = %s", [hashed]
            )
            account, key = await cursor.fetchone() or (None, "")
        await self._notes.note("key_refused", account, key=key)

    async def forget(self, revoked: KeyRevoked) -> None:
        """Stop trusting a key that was revoked or changed, here or on another replica."""
        self._revocations += 1
        for hashed, (caller, _) in list(self._trusted.items()):
            if caller.key == revoked.key:
                del self._trusted[hashed]

    async def check(self, credentials: Credentials) -> Access:
        """`authenticate`, for the other services: API keys, and the pages' socket tokens."""
        if sessions.is_socket_token(credentials.token):
            account, session = await sessions.find_by_socket_token(
                self.database, credentials.token, connected=credentials.connected
            )
            return Access(account=account, key=session, scopes=["monitor:read"])
        # Who asks again may have missed that the key was revoked, and so may this replica.
        caller = await self.authenticate(credentials.token, anew=credentials.connected)
        return Access(account=caller.account, key=caller.key or "", scopes=sorted(caller.scopes))

    async def write_last_use(self) -> None:
        """What was used since the last time; nothing is lost when the database is away."""
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
        """Until canceled."""
        try:
            while True:
                await asyncio.sleep(WRITTEN)
                await self.write_last_use()
        finally:
            await self.write_last_use()
