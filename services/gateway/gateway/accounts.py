"""Accounts: registration, login, and the protection of both against guessing.

No answer tells whether an address has an account: not by its text, not by its
status, and not by its time, since known and unknown addresses cost one hash
and one commit each. Wrong passwords are counted for the account at an
address, for the address, and for the account; right ones are not, so that
the owner is never refused for having logged in. Each replica checks one password
at a time for each address, so concurrent guesses exceed the limit by at most one
per replica.
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

from common.errors import InvalidRequest, Unauthenticated, Unavailable
from common.postgres import Database
from gateway import audit
from gateway.account_fields import (
    Account,
    AccountChange,
    AccountFacts,
    NewAccount,
    PasswordChange,
)
from gateway.hub_tokens import stored
from gateway.limits import Limits, OverLimit
from gateway.memory import remember
from gateway.passwords import MAX_WAITING, Passwords
from gateway.second_factor import CodeNeeded, SecondFactor, wrong_code
from gateway.windows import Policy

LOGIN, LOGIN_ADDRESS, LOGIN_ACCOUNT = "login", "login-address", "login-account"
# Wrong codes of a second factor; only a caller who knows the password can try one.
LOGIN_CODE = "login-code"
# Recorded logins in memory; the oldest are evicted first.
MAX_NOTED_LOGINS = 10_000
LOGIN_NOTED_INTERVAL_S = 86_400.0
# Lower-cased by the database, so that every spelling of an address finds the same account: Python
# lower-cases a dotted capital I differently.
FIND = """
select lower(%(email)s::text), id, password
from (values (1)) as one left join accounts on lower(email) = lower(%(email)s)
"""
# Max callers, from all addresses, that try passwords at once; most capacity stays free for other
# requests.
MAX_TRYING = 4 * MAX_WAITING


def policies(per_minute: int) -> list[Policy]:
    """Return the policies that count wrong passwords, and wrong codes of second factors.

    OWASP ASVS 6.3.1; with 10 a minute, an account gets the 100 an hour of NIST SP 800-63B.
    """
    return [
        Policy(LOGIN, per_minute),
        Policy(LOGIN_ADDRESS, 3 * per_minute),
        Policy(LOGIN_ACCOUNT, 10 * per_minute, window=3600),
        Policy(LOGIN_CODE, per_minute, window=3600),
    ]


@dataclass(frozen=True, slots=True)
class StoredLogin:
    """An e-mail address in lower case, with its account ("" if it has none) and password hash."""

    email: str
    account: str
    password: str | None


@dataclass(frozen=True, slots=True)
class Login:
    """An account, and the password hash that the login was checked against."""

    account: str
    proof: str = field(repr=False)


@dataclass
class Turn:
    """The queue of password checks from one network address."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    callers: int = 0


class Accounts:
    def __init__(
        self,
        database: Database,
        passwords: Passwords,
        limits: Limits,
        second_factor: SecondFactor,
    ) -> None:
        self.database = database
        self.second_factor = second_factor
        self.passwords = passwords
        self.limits = limits
        self._turns: dict[str, Turn] = {}
        self._notes = audit.Notes(database)
        # When each login was noted, by account and address, on the monotonic clock.
        self._noted: dict[tuple[str, str], float] = {}

    async def register(self, new: NewAccount) -> Account:
        """Create an account.

        A registered address gets the same answer: with the account's password
        the account's id, with another password the id of no account. The caller
        of this method has already counted the attempt.
        """
        await self.passwords.refuse_common("password", new.password, new.email)
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
            known = await self._find(new.email)  # another request was faster
        account = await self._registered(new, known)
        async with self.database.connection() as connection:
            await audit.record(connection, "registered_again", known.account or None)
        return Account(id=account, email=new.email)

    async def _registered(self, new: NewAccount, known: StoredLogin) -> str:
        if await self.passwords.verify(known.password, new.password):
            return known.account
        # Derived, so that a repeated request gets the same id: a changing id would reveal that the
        # address is taken.
        seed = f"{known.email}\0{new.password}".encode()
        secret = (known.password or "").encode()
        return f"acc_{hmac.new(secret, seed, hashlib.sha256).hexdigest()[:24]}"

    async def log_in(
        self, email: str, password: str, code: str | None = None, *, code_later: bool = False
    ) -> Login:
        """Check a password, and a code where the account has a second factor.

        With `code_later` the caller of this method checks the code.

        Raises:
            Unauthenticated: unknown address or wrong password, it does not say which; or a code
                that is missing (`details.reason` is `totp`) or wrong.
            RateLimited: too many of those.
            Unavailable: too many at once.
        """
        known = await self._find(email)
        async with self._turn(audit.network()):
            login = await self._check_password(known, password)
            if not code_later and await self.second_factor.is_on(login.account):
                await self._check_code(known, code)
            return login

    async def log_in_with_code(self, challenge: str, code: str) -> Login:
        """Complete a login with a code, after a first step with the right password.

        Raises:
            Unauthenticated: the code is wrong, or the first step too long ago.
            RateLimited: too many wrong codes.
        """
        account, digest = self.second_factor.read_challenge(challenge)
        known = await self._find((await self.get(account)).email)
        proof = known.password or ""
        if hashlib.sha256(proof.encode()).hexdigest() != digest:
            raise Unauthenticated("the password was changed; log in again")
        async with self._turn(audit.network()):
            await self._check_code(known, code)
            return Login(account, proof)

    async def _check_password(self, known: StoredLogin, password: str) -> Login:
        await self._throttle(known, self.limits.refuse_if_spent)
        if await self.passwords.verify(known.password, password):
            return Login(known.account, known.password or "")
        async with self.database.connection() as connection:
            # Not the address as it was typed: people sometimes type their password there.
            await audit.record(connection, "login_failed", known.account or None)
        await self._throttle(known, self.limits.admit)
        raise Unauthenticated("the e-mail address or the password is wrong")

    async def _check_code(self, known: StoredLogin, code: str | None) -> None:
        if not code:
            challenge = self.second_factor.challenge(known.account, known.password or "")
            raise CodeNeeded(challenge)
        await self._throttle(known, self.limits.refuse_if_spent, code=True)
        if await self.second_factor.accepts(known.account, code):
            return
        async with self.database.connection() as connection:
            await audit.record(connection, "login_failed", known.account, what="code")
        await self._throttle(known, self.limits.admit, code=True)
        raise Unauthenticated(
            "the code is wrong, or was used; send the next one that your app shows", reason="totp"
        )

    @asynccontextmanager
    async def _turn(self, network: str) -> AsyncIterator[None]:
        """Wait for the turn of a network address, and hold it; raise Unavailable if too many wait.

        An address gets at most as many places as it leaves free, so that a few busy
        addresses, even with the right password, leave room for everyone else.
        """
        free = MAX_TRYING - sum(turn.callers for turn in self._turns.values())
        if free <= 0:
            raise Unavailable("too many logins at once; try again", retry_after=1)
        turn = self._turns.get(network, Turn())
        if turn.callers > MAX_WAITING or turn.callers >= free:
            raise Unavailable(
                "too many logins at once from this network address; try again", retry_after=1
            )
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
        self,
        known: StoredLogin,
        check: Callable[[str, list[str]], Awaitable[object]],
        *,
        code: bool = False,
    ) -> None:
        """Apply `check` to each limit of wrong passwords, or of wrong codes; raise RateLimited."""
        account, network = known.account, audit.network()
        email_digest = hashlib.sha256(known.email.encode()).hexdigest()[:32]
        for subject, policy in (
            (f"{email_digest}-{network}", LOGIN),
            (network, LOGIN_ADDRESS),
            (email_digest, LOGIN_CODE if code else LOGIN_ACCOUNT),
        ):
            try:
                await check(subject, [policy])
            except OverLimit:
                # Guesses by strangers must not lock out a caller who has logged in from this
                # address before.
                is_familiar = policy in (LOGIN_ACCOUNT, LOGIN_CODE) and await self._is_familiar(
                    account, ["registered", "logged_in"], days=30
                )
                if not is_familiar:
                    # Also for an address without an account: skipping it would answer measurably
                    # faster.
                    await self._notes.note(
                        "login_throttled", account or None, of=subject, policy=policy
                    )
                    raise

    async def note_login(self, account: str) -> None:
        """Record a login by HTTP Basic, at most once a day for each account and network."""
        login, now = (account, audit.network()), time.monotonic()
        if self._noted.get(login, -math.inf) > now - LOGIN_NOTED_INTERVAL_S:
            return
        if not await self._is_familiar(account, ["logged_in"], days=1):
            async with self.database.connection() as connection:
                await audit.record(connection, "logged_in", account, by="basic")
        remember(self._noted, login, now, MAX_NOTED_LOGINS)

    async def _is_familiar(self, account: str, acts: list[str], days: int) -> bool:
        """Return whether the caller's network did one of these acts in the last `days` days."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select 1 from audit where account_id = %s"
                " and nullif(address, '')::inet <<= nullif(%s, '')::cidr"
                " and act = any(%s) and at > now() - %s * interval '1 day' limit 1",
                [account, audit.network(), acts, days],
            )
            return await cursor.fetchone() is not None

    async def _find(self, email: str) -> StoredLogin:
        async with self.database.connection() as connection:
            cursor = await connection.execute(FIND, {"email": email})
            row = await cursor.fetchone()
        assert row is not None
        return StoredLogin(row[0], row[1] or "", row[2])

    async def get(self, account: str) -> AccountFacts:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select id, email, beta, exists (select from second_factors"
                " where account_id = id and since is not null),"
                " hub_user, role, stored_at, checked_at from accounts"
                " left join hub_tokens on account_id = id where id = %s",
                [account],
            )
            row = await cursor.fetchone()
        if row is None:
            raise Unauthenticated("the account was deleted")
        token = stored(row[4:]) if row[4] is not None else None
        return AccountFacts(id=row[0], email=row[1], beta=row[2], totp=row[3], hub_token=token)

    async def check_password(
        self, account: str, field: str, password: str, code: str | None, *, owes_code: bool
    ) -> Login:
        """Check the password of a logged-in caller, and a code where one is needed.

        Args:
            account: whose password it is.
            field: the public field that holds it.
            password: as it was sent.
            code: of the second factor, as it was sent.
            owes_code: whether the request has not proven the second factor by itself, as HTTP
                Basic does with a code in its header.

        Raises:
            InvalidRequest: the password or the code is wrong.
            RateLimited: too many wrong ones.
            Unavailable: too many at once.
        """
        known = await self._find((await self.get(account)).email)
        async with self._turn(audit.network()):
            try:
                login = await self._check_password(known, password)
            except Unauthenticated:
                fault = "is not the account's password"
                fields = [{"path": field, "message": fault}]
                raise InvalidRequest(f"{field}: {fault}", fields=fields) from None
            if owes_code and await self.second_factor.is_on(account):
                try:
                    await self._check_code(known, code)
                except Unauthenticated:
                    raise wrong_code() if code else _missing_code() from None
            return login

    async def hash_new_password(
        self, account: str, change: PasswordChange, *, owes_code: bool
    ) -> tuple[Login, str]:
        """Check the current password and hash the new one; raises as `check_password`.

        Raises:
            InvalidRequest: also for a new password that is too common.
        """
        email = (await self.get(account)).email
        await self.passwords.refuse_common("new", change.new, email)
        login = await self.check_password(
            account, "current", change.current, change.code, owes_code=owes_code
        )
        return login, await self.passwords.hash(change.new)

    async def change(self, account: str, change: AccountChange) -> AccountFacts:
        async with self.database.connection() as connection:
            await connection.execute(
                "update accounts set beta = %s where id = %s", [change.beta, account]
            )
            await audit.record(connection, "beta_on" if change.beta else "beta_off", account)
        return await self.get(account)


def _missing_code() -> InvalidRequest:
    fault = "is required: the account has a second factor; send a code of its app"
    return InvalidRequest(f"code: {fault}", fields=[{"path": "code", "message": fault}])
