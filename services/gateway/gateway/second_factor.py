"""The optional second factor of an account: codes of an authenticator app (TOTP, RFC 6238).

The app's secret is encrypted. A code is good for its own 30 seconds and the 30 before and after,
once: no code of the same or an earlier time is taken after it. Recovery codes work once each and
have 120 random bits, so their SHA-256 is stored. Without a code nobody logs in, not even
with a new password. An operator switches the factor off for a person who has
lost app and codes: `python -m gateway.second_factor you@example.com`.
"""

import base64
import hashlib
import hmac
import secrets
import sys
import time
from typing import Annotated

import pyotp
from pydantic import Field, StringConstraints

from common.contracts import Input, Message
from common.encryption import Encryption
from common.errors import Conflict, InvalidRequest, Unauthenticated
from common.faults import Hint
from common.postgres import Connection, Database
from gateway import audit, commands
from gateway.settings import GatewaySettings

ISSUER = "Lilypad"
STEP_S = 30
# Max steps by which the clock of a person's phone may differ.
MAX_SKEW = 1
RECOVERY_CODES, RECOVERY_BYTES = 10, 15
HEADER = "X-Lilypad-Code"
# Owner of the encrypted challenge for the second step of a login on the pages, and its lifetime.
LOGIN, LOGIN_STEP_S = "login", 300

Code = Annotated[
    str,
    StringConstraints(pattern=r"^[0-9A-Za-z -]{6,40}$"),
    Hint('must be the six digits that your app shows, such as "123456", or a recovery code'),
]


class TotpStart(Input):
    password: Annotated[str, StringConstraints(min_length=1, max_length=256)] = Field(
        description="The account's password.", examples=["correct horse battery"]
    )


class TotpCode(Input):
    code: Code = Field(description="The six digits that your app shows.", examples=["123456"])


class TotpEnd(Input):
    password: Annotated[str, StringConstraints(min_length=1, max_length=256)] = Field(
        description="The account's password.", examples=["correct horse battery"]
    )
    code: Code | None = Field(
        None,
        description="A code, unless the request brings one in its header.",
        examples=["123456"],
    )


class TotpSecret(Message):
    secret: str = Field(description="For your authenticator app; it is shown this once.")
    uri: str = Field(description="The same as an otpauth address, to be drawn as a QR code.")


class RecoveryCodes(Message):
    recovery_codes: list[str] = Field(
        description="Each is taken once in place of a code; they are shown this once."
    )


class CodeNeeded(Unauthenticated):
    """A login with the right password but without a code; `challenge` starts the second step."""

    def __init__(self, challenge: str) -> None:
        super().__init__(
            f"the account has a second factor; send its code in the header {HEADER}", reason="totp"
        )
        self.challenge = challenge


class SecondFactor:
    """The second factors of all accounts.

    Args:
        database: the gateway's.
        encryption: of the apps' secrets.
        needs_confirmation: whether an account needs an address that was confirmed by a mailed link
            to switch its second factor on, so that a squatter cannot lock out the address's owner.
    """

    def __init__(
        self, database: Database, encryption: Encryption, *, needs_confirmation: bool = False
    ) -> None:
        self.database = database
        self.encryption = encryption
        self.needs_confirmation = needs_confirmation

    async def is_on(self, account: str) -> bool:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select 1 from second_factors where account_id = %s and since is not null",
                [account],
            )
            return await cursor.fetchone() is not None

    async def start(self, account: str, email: str) -> TotpSecret:
        """Create a secret; it replaces one that was never confirmed.

        Raises:
            Conflict: the second factor is on, or the address was not confirmed.
            Unavailable: the operator has set no keys.
        """
        secret = pyotp.random_base32()
        encrypted = self.encryption.encrypt(secret, account)
        async with self.database.connection() as connection:
            if self.needs_confirmation:
                cursor = await connection.execute(
                    "select 1 from accounts where id = %s and confirmed_at is not null", [account]
                )
                if await cursor.fetchone() is None:
                    raise Conflict(
                        "confirm your e-mail address first: ask for a link to reset the password"
                        " with POST /v1/api/account/reset, and use it once",
                        status=409,
                    )
            cursor = await connection.execute(
                "insert into second_factors as held (account_id, secret) values (%s, %s)"
                " on conflict (account_id) do update set secret = excluded.secret"
                " where held.since is null",
                [account, encrypted],
            )
            if not cursor.rowcount:
                raise Conflict(
                    "the second factor is on; end it first with DELETE /v1/api/account/totp",
                    status=409,
                )
        uri = pyotp.TOTP(secret).provisioning_uri(name=email, issuer_name=ISSUER)
        return TotpSecret(secret=secret, uri=uri)

    async def confirm(self, account: str, code: str) -> RecoveryCodes:
        """Switch the second factor on with the app's first code.

        Raises:
            Conflict: it is on, or was not started.
            InvalidRequest: the code is wrong.
        """
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select secret from second_factors where account_id = %s and since is null"
                " for update",
                [account],
            )
            row = await cursor.fetchone()
            if row is None:
                raise Conflict(
                    "no second factor is being set up; start with POST /v1/api/account/totp",
                    status=409,
                )
            step = self._step(row[0], account, code)
            if step is None:
                raise wrong_code()
            await connection.execute(
                "update second_factors set since = now(), last_step = %s where account_id = %s",
                [step, account],
            )
            codes = [_recovery_code() for _ in range(RECOVERY_CODES)]
            await connection.execute(
                "insert into recovery_codes (hash, account_id) select unnest(%s::bytea[]), %s",
                [[_hash(account, each) for each in codes], account],
            )
            await audit.record(connection, "totp_on", account)
        return RecoveryCodes(recovery_codes=codes)

    async def accepts(self, account: str, code: str) -> bool:
        """Return whether the code, or recovery code, is valid; mark it as used."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select secret from second_factors where account_id = %s and since is not null",
                [account],
            )
            row = await cursor.fetchone()
            step = self._step(row[0], account, code) if row else None
            if step is not None:
                cursor = await connection.execute(
                    "update second_factors set last_step = %(step)s"
                    " where account_id = %(account)s and last_step < %(step)s",
                    {"step": step, "account": account},
                )
                return cursor.rowcount == 1
            cursor = await connection.execute(
                "delete from recovery_codes where hash = %s and account_id = %s",
                [_hash(account, code), account],
            )
            if cursor.rowcount:
                await audit.record(connection, "recovery_code_used", account)
            return cursor.rowcount == 1

    def challenge(self, account: str, proof: str) -> str:
        """Return a short-lived token that proves the password; `proof` is the password's hash."""
        text = f"{account} {hashlib.sha256(proof.encode()).hexdigest()}"
        return self.encryption.encrypt(text, LOGIN).decode()

    def read_challenge(self, challenge: str) -> tuple[str, str]:
        """Return a challenge's account and digest; raise Unauthenticated for an expired one."""
        text = self.encryption.decrypt(challenge.encode(), LOGIN, LOGIN_STEP_S)
        if text is None:
            raise Unauthenticated("the login took too long; log in again")
        account, _, digest = text.partition(" ")
        return account, digest

    async def stop(self, account: str) -> None:
        async with self.database.connection() as connection:
            if await delete(connection, account):
                await audit.record(connection, "totp_off", account)

    def _step(self, encrypted: bytes, account: str, code: str) -> int | None:
        """Return the time step that a code belongs to; None for a wrong one."""
        secret = self.encryption.decrypt(encrypted, account)
        if secret is None:
            return None
        digits = code.replace(" ", "").encode()
        totp, now = pyotp.TOTP(secret, interval=STEP_S), int(time.time()) // STEP_S
        matched = None
        for step in range(now - MAX_SKEW, now + MAX_SKEW + 1):
            if hmac.compare_digest(totp.generate_otp(step).encode(), digits):
                matched = step
        return matched


async def delete(connection: Connection, account: str) -> bool:
    """Delete an account's second factor; return whether it had one."""
    await connection.execute("delete from recovery_codes where account_id = %s", [account])
    cursor = await connection.execute("delete from second_factors where account_id = %s", [account])
    return cursor.rowcount == 1


def wrong_code() -> InvalidRequest:
    fault = "is wrong, or was used; send the next one that your app shows"
    return InvalidRequest(f"code: {fault}", fields=[{"path": "code", "message": fault}])


def _recovery_code() -> str:
    text = base64.b32encode(secrets.token_bytes(RECOVERY_BYTES)).decode().lower()
    return "-".join(text[begin : begin + 6] for begin in range(0, len(text), 6))


def _hash(account: str, code: str) -> bytes:
    plain = code.replace("-", "").replace(" ", "").lower()
    return hashlib.sha256(f"{account} {plain}".encode()).digest()


async def switch_off(email: str) -> int:
    """Switch an account's second factor off, for an operator; return the exit status."""
    settings = GatewaySettings.from_environment()
    async with commands.open_account(settings, email) as (connection, account):
        if account is None or not await delete(connection, account):
            sys.stderr.write("no account with a second factor has this address\n")
            return 1
        await audit.record(connection, "totp_off", account, by="operator")
    return 0


if __name__ == "__main__":
    commands.run("gateway.second_factor", switch_off)
