"""Accounts and API keys: what is known of them, and where it is kept."""

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, StringConstraints

from common.bus import Bus
from common.contracts import Input, Message
from common.contracts.access import KEY_REVOKED, Access, Credentials, KeyRevoked
from common.errors import NotFound, Unauthenticated
from common.postgres import Database
from gateway import keys
from gateway.passwords import Passwords

Scope = Literal["generate", "benchmark", "monitor:read", "monitor:write"]

# How long a key is taken on trust before the database is asked again, in seconds.
TRUSTED = 5.0
# Keys remembered at once; the oldest are forgotten first.
REMEMBERED = 10_000


class NewAccount(Input):
    email: Annotated[
        str, StringConstraints(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$", min_length=6, max_length=254)
    ]
    # Long enough to resist guessing, short enough to bound the work of hashing (OWASP ASVS 6.2).
    password: Annotated[str, StringConstraints(min_length=8, max_length=256)]


class Account(Message):
    id: str
    email: str


class NewKey(Input):
    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    scopes: Annotated[list[Scope], Field(min_length=1, max_length=4)] | None = Field(
        None, description="All of them when left out."
    )
    expires_at: AwareDatetime | None = None


class Key(Message):
    id: str
    name: str
    prefix: str = Field(description="The key's first characters, to tell it from others.")
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = None


class CreatedKey(Key):
    key: str = Field(description="The key itself. It is shown this once and cannot be read again.")


class Keys(Message):
    keys: list[Key]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: the account, and which of its keys with which scopes (none: the password)."""

    account: str
    key: str | None
    scopes: frozenset[str]


class Accounts:
    def __init__(self, database: Database, passwords: Passwords, bus: Bus) -> None:
        self.database = database
        self.passwords = passwords
        self.bus = bus
        self._trusted: dict[bytes, tuple[Caller, float]] = {}

    async def register(self, new: NewAccount) -> Account:
        """A new account.

        An address that is taken is answered in the same way and after the
        same time, so that nobody learns who has an account: with the password
        that belongs to it as the account it is, with another one with an id
        that belongs to nothing.
        """
        hashed = await self.passwords.hash(new.password)
        account = f"acc_{secrets.token_hex(12)}"
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "insert into accounts (id, email, password) values (%s, %s, %s)"
                " on conflict (lower(email)) do nothing",
                [account, new.email, hashed],
            )
            taken = cursor.rowcount == 0
        if taken:
            account = await self._registered(new)
        return Account(id=account, email=new.email)

    async def _registered(self, new: NewAccount) -> str:
        known = await self._find(new.email)
        if known is not None and await self.passwords.verify(known[1], new.password):
            return known[0]
        # The same again for the same answer: an id that changed would tell the two cases apart.
        seed = f"{new.email.lower()}\0{new.password}".encode()
        salt = (known[1] if known else "").encode()
        return f"acc_{hmac.new(salt, seed, hashlib.sha256).hexdigest()[:24]}"

    async def log_in(self, email: str, password: str) -> Caller:
        """Raises Unauthenticated, after the same time for an unknown address."""
        known = await self._find(email)
        if not await self.passwords.verify(known[1] if known else None, password):
            raise Unauthenticated("the e-mail address or the password is wrong")
        assert known is not None
        return Caller(known[0], None, frozenset())

    async def _find(self, email: str) -> tuple[str, str] | None:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select id, password from accounts where lower(email) = lower(%s)", [email]
            )
            row = await cursor.fetchone()
        return None if row is None else (row[0], row[1])

    async def create_key(self, account: str, new: NewKey) -> CreatedKey:
        key = keys.make_key()
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "insert into keys (id, account_id, name, prefix, hash, scopes, expires_at)"
                " values (%s, %s, %s, %s, %s, %s, %s)"
                " returning id, name, prefix, scopes, created_at, expires_at, last_used_at",
                [
                    f"key_{secrets.token_hex(12)}",
                    account,
                    new.name,
                    keys.shown_prefix(key),
                    keys.hash_key(key),
                    list(dict.fromkeys(new.scopes or keys.SCOPES)),
                    new.expires_at,
                ],
            )
            row = await cursor.fetchone()
            assert row is not None
        return CreatedKey(**_key(row).model_dump(), key=key)

    async def list_keys(self, account: str) -> Keys:
        """The account's keys that are not revoked, oldest first."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select id, name, prefix, scopes, created_at, expires_at, last_used_at from keys"
                " where account_id = %s and revoked_at is null order by created_at, id",
                [account],
            )
            rows = await cursor.fetchall()
        return Keys(keys=[_key(row) for row in rows])

    async def revoke_key(self, account: str, key: str) -> None:
        """Raises NotFound also for somebody else's key."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update keys set revoked_at = now()"
                " where account_id = %s and id = %s and revoked_at is null",
                [account, key],
            )
            if cursor.rowcount == 0:
                raise NotFound("there is no such key")
        # Every replica forgets it, and its sockets close; a replica that cannot hear
        # this trusts the key for the rest of `TRUSTED` at most.
        await self.bus.publish(KEY_REVOKED, KeyRevoked(account=account, key=key), account, key)

    async def forget(self, revoked: KeyRevoked) -> None:
        """Stop trusting a key that was revoked, here or on another replica."""
        for hashed, (caller, _) in list(self._trusted.items()):
            if caller.key == revoked.key:
                del self._trusted[hashed]

    async def check(self, credentials: Credentials) -> Access:
        """`authenticate`, for the other services."""
        caller = await self.authenticate(credentials.token)
        return Access(account=caller.account, key=caller.key or "", scopes=sorted(caller.scopes))

    async def authenticate(self, key: str) -> Caller:
        """Who the key belongs to.

        Raises:
            Unauthenticated: unknown, mistyped, expired or revoked.
            Unavailable: the database cannot be asked; nobody is let in unchecked.
        """
        if not keys.is_well_formed(key):
            raise Unauthenticated("this is not an API key; check that it was copied whole")
        hashed = keys.hash_key(key)
        trusted = self._trusted.get(hashed)
        if trusted and trusted[1] > time.monotonic():
            return trusted[0]
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select account_id, id, scopes from keys where hash = %s and revoked_at is null"
                " and (expires_at is null or expires_at > now())",
                [hashed],
            )
            row = await cursor.fetchone()
        if row is None:
            self._trusted.pop(hashed, None)
            raise Unauthenticated("the API key is unknown, expired or revoked")
        caller = Caller(row[0], row[1], frozenset(row[2]))
        while len(self._trusted) >= REMEMBERED:
            del self._trusted[next(iter(self._trusted))]
        self._trusted[hashed] = (caller, time.monotonic() + TRUSTED)
        return caller


def _key(row: tuple[object, ...]) -> Key:
    names = ("id", "name", "prefix", "scopes", "created_at", "expires_at", "last_used_at")
    return Key.model_validate(dict(zip(names, row, strict=True)))
