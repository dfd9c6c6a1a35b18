"""Accounts: registering, logging in, and what keeps strangers from either.

No answer tells whether an address has an account: not by its text, not by its
status, and not by its time, since known and unknown addresses cost one hash
and one commit each. Wrong passwords are counted for the account at an
address, for the address, and for the account; right ones are not, so that
whoever knows the password is never refused for having used it. They are tried
one after the other for each address, on each replica: so many more than are
allowed can be tried at once, and no more.
"""

import asyncio
import hashlib
import hmac
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field, StringConstraints

from common.contracts import Input, Message
from common.errors import Unauthenticated, Unavailable
from common.postgres import Database
from gateway import audit
from gateway.counters import Policy
from gateway.limits import Limits, OverLimit
from gateway.memory import remember
from gateway.passwords import MOST_WAITING, Passwords

LOGIN, LOGIN_ADDRESS, LOGIN_ACCOUNT = "login", "login-address", "login-account"
# Callers at once whose login was noted; the oldest go first.
REMEMBERED = 10_000
DAY = 86_400.0
# In small letters as the database writes them, which makes an account's spellings one: for
# Python the small letter of a dotted capital I is another one than i.
FIND = """
select lower(%(email)s::text), id, password
from (values (1)) as one left join accounts on lower(email) = lower(%(email)s)
"""
# Callers from all addresses who try passwords: the others' requests keep most of the places.
MOST_TRYING = 4 * MOST_WAITING


def policies(per_minute: int) -> list[Policy]:
    """Of wrong passwords: for an account from one address, from an address, for an account.

    OWASP ASVS 6.3.1; with 10 a minute the last is the 100 of NIST SP 800-63B.
    """
    return [
        Policy(LOGIN, per_minute),
        Policy(LOGIN_ADDRESS, 3 * per_minute),
        Policy(LOGIN_ACCOUNT, 10 * per_minute, window=3600),
    ]


class NewAccount(Input):
    email: Annotated[
        str,
        StringConstraints(
            # HTTP Basic ends the name at the first colon.
            pattern=r"^[^@:\s\x00-\x1f\x7f]+@[^@\s\x00-\x1f\x7f]+\.[^@\s\x00-\x1f\x7f]+$",
            min_length=6,
            max_length=254,
        ),
    ] = Field(examples=["you@example.com"])
    # Long enough to resist guessing, short enough to bound the work of hashing (OWASP ASVS 6.2).
    password: Annotated[str, StringConstraints(min_length=8, max_length=256)] = Field(
        examples=["correct horse battery"]
    )


class Account(Message):
    id: str
    email: str


class AccountChange(Input):
    beta: bool = Field(description="Whether /v2/api answers without the header X-Lilypad-Beta.")


class AccountFacts(Account):
    beta: bool


@dataclass(frozen=True, slots=True)
class Known:
    """An address, however it was spelled; with no account these are `""` and None."""

    email: str
    account: str
    password: str | None


@dataclass
class Turn:
    """Of callers from one address who try passwords."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0


class Accounts:
    def __init__(self, database: Database, passwords: Passwords, limits: Limits) -> None:
        self.database = database
        self.passwords = passwords
        self.limits = limits
        self._turns: dict[str, Turn] = {}
        self._notes = audit.Notes(database)
        # Whose login was noted where, and when, on the monotonic clock.
        self._noted: dict[tuple[str, str], float] = {}

    async def register(self, new: NewAccount) -> Account:
        """A new account.

        An address that is taken is answered in the same way: with the password
        that belongs to it as the account it is, with another one with an id
        that belongs to nothing. Whoever calls has counted the attempt.
        """
        known = await self._find(new.email)
        account = f"acc_{secrets.token_hex(12)}"
        if not known.account:
            hashed = await self.passwords.hash(new.password)
            async with self.database.connection() as connection:
                cursor = await connection.execute(
                    "insert into accounts (id, email, password) values (%s, %s, %s)"
                    " on conflict (lower(email)) do nothing",
                    [account, new.email, hashed],
                )
                if cursor.rowcount:
                    await audit.record(connection, "registered", account)
                    return Account(id=account, email=new.email)
            known = await self._find(new.email)  # somebody was faster
        account = await self._registered(new, known)
        async with self.database.connection() as connection:
            await audit.record(connection, "registered_again", known.account or None)
        return Account(id=account, email=new.email)

    async def _registered(self, new: NewAccount, known: Known) -> str:
        if await self.passwords.verify(known.password, new.password):
            return known.account
        # The same again for the same answer: an id that changed would tell the two cases apart.
        seed = f"{known.email}\0{new.password}".encode()
        secret = (known.password or "").encode()
        return f"acc_{hmac.new(secret, seed, hashlib.sha256).hexdigest()[:24]}"

    async def log_in(self, email: str, password: str) -> str:
        """The account's id.

        Raises:
            Unauthenticated: unknown address or wrong password; it does not say which.
            RateLimited: too many of those.
            Unavailable: too many at once.
        """
        known = await self._find(email)
        account = known.account
        async with self._turn(audit.network()):
            await self._throttle(known, self.limits.look)
            if await self.passwords.verify(known.password, password):
                return account
            async with self.database.connection() as connection:
                # Not the address as it was typed: people type their password there.
                await audit.record(connection, "login_failed", account or None)
            await self._throttle(known, self.limits.admit)
            raise Unauthenticated("the e-mail address or the password is wrong")

    @asynccontextmanager
    async def _turn(self, network: str) -> AsyncIterator[None]:
        """One at a time for each address; raises Unavailable when too many wait, here or in all.

        No address gets more places than it leaves free, so that a few which keep asking, with
        a password that is right even, take as many each and leave as many to whoever else comes.
        """
        free = MOST_TRYING - sum(turn.callers for turn in self._turns.values())
        if free <= 0:
            raise Unavailable("too many logins at once; try again", retry_after=1)
        turn = self._turns.get(network, Turn())
        if turn.callers > MOST_WAITING or turn.callers >= free:
            raise Unavailable("too many logins at once from this address", retry_after=1)
        self._turns[network] = turn
        turn.callers += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.callers -= 1
            if not turn.callers:
                del self._turns[network]

    async def _throttle(
        self, known: Known, ask: Callable[[str, list[str]], Awaitable[object]]
    ) -> None:
        """Look at, or add to, what counts wrong passwords; raises RateLimited."""
        account, network = known.account, audit.network()
        who = hashlib.sha256(known.email.encode()).hexdigest()[:32]
        for subject, policy in (
            (f"{who}-{network}", LOGIN),
            (network, LOGIN_ADDRESS),
            (who, LOGIN_ACCOUNT),
        ):
            try:
                await ask(subject, [policy])
            except OverLimit:
                # Strangers who guess must not lock out whoever has been here before.
                known_here = policy == LOGIN_ACCOUNT and await self._has_been_here(
                    account, ["registered", "logged_in"], days=30
                )
                if not known_here:
                    # As often for an address without an account: that takes a moment, too.
                    await self._notes.note(
                        "login_throttled", account or None, of=subject, policy=policy
                    )
                    raise

    async def note_login(self, account: str) -> None:
        """Once a day for each address: HTTP Basic logs in with every request."""
        here, now = (account, audit.network()), time.monotonic()
        if self._noted.get(here, -math.inf) > now - DAY:
            return
        if not await self._has_been_here(account, ["logged_in"], days=1):
            async with self.database.connection() as connection:
                await audit.record(connection, "logged_in", account, by="basic")
        remember(self._noted, here, now, REMEMBERED)

    async def _has_been_here(self, account: str, acts: list[str], days: int) -> bool:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select 1 from audit where account_id = %s"
                " and nullif(address, '')::inet <<= nullif(%s, '')::cidr"
                " and act = any(%s) and at > now() - %s * interval '1 day' limit 1",
                [account, audit.network(), acts, days],
            )
            return await cursor.fetchone() is not None

    async def _find(self, email: str) -> Known:
        async with self.database.connection() as connection:
            cursor = await connection.execute(FIND, {"email": email})
            row = await cursor.fetchone()
        assert row is not None
        return Known(row[0], row[1] or "", row[2])

    async def get(self, account: str) -> AccountFacts:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select id, email, beta from accounts where id = %s", [account]
            )
            row = await cursor.fetchone()
        if row is None:
            raise Unauthenticated("the account is gone")
        return AccountFacts(id=row[0], email=row[1], beta=row[2])

    async def change(self, account: str, change: AccountChange) -> AccountFacts:
        async with self.database.connection() as connection:
            await connection.execute(
                "update accounts set beta = %s where id = %s", [change.beta, account]
            )
            await audit.record(connection, "beta_on" if change.beta else "beta_off", account)
        return await self.get(account)
