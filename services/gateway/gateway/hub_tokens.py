"""Accounts' own Hub tokens: one per account, stored encrypted, and never shown.

The generator uses it for models that nothing else opens to the account, and control hands it to
the worker of a run that needs it. No other service may ask for it: see `deploy/nats/nats.conf`.
"""

from datetime import datetime
from typing import Annotated

import structlog
from pydantic import Field, StringConstraints

from common.bus import Bus
from common.contracts import Input, Message
from common.contracts.hub import (
    CHECK_HUB_TOKEN,
    HUB_TOKEN,
    HubIdentity,
    HubToken,
    HubTokenCheck,
    HubTokenRequest,
)
from common.encryption import Encryption
from common.errors import InvalidRequest, ModelRefused, NotFound
from common.faults import Hint
from common.postgres import Database
from common.service import answers
from gateway import audit

log = structlog.get_logger()

STORE = """
insert into hub_tokens (account_id, token, hub_user, role) values (%s, %s, %s, %s)
on conflict (account_id) do update set token = excluded.token, hub_user = excluded.hub_user,
    role = excluded.role, stored_at = now(), checked_at = now()
returning hub_user, role, stored_at, checked_at
"""


class NewHubToken(Input):
    token: Annotated[
        str,
        # Printable ASCII only, since the token is sent in a header.
        StringConstraints(pattern=r"^[!-~]+$", min_length=4, max_length=512),
        Hint('must be a token of the Hub without blanks, such as "hf_…"'),
    ] = Field(
        description="An access token of the Hub that may read your models; it is stored"
        " encrypted and never shown again.",
        examples=["hf_ReadsYourOwnModelsAlone"],
        repr=False,
    )


class StoredHubToken(Message):
    user: str = Field(description="The Hub's name of the user whose token it is.")
    role: str = Field(description="Role of the token on the Hub, such as `read` or `fineGrained`.")
    stored_at: datetime = Field(description="Time at which it was stored.")
    checked_at: datetime = Field(description="Time of the last check that the Hub accepts it.")


class HubTokens:
    def __init__(self, database: Database, bus: Bus, encryption: Encryption) -> None:
        self.database = database
        self.bus = bus
        self.encryption = encryption

    async def store(self, account: str, new: NewHubToken) -> StoredHubToken:
        """Store a token that the Hub accepts; it replaces the previous one.

        Raises:
            InvalidRequest: the Hub does not accept it.
            HubUnavailable: the Hub cannot be asked.
            Unavailable: the operator has set no keys.
        """
        encrypted = self.encryption.encrypt(new.token, account)
        identity = await self.bus.call(CHECK_HUB_TOKEN, HubTokenCheck(token=new.token))
        async with self.database.connection() as connection:
            values = [account, encrypted, identity.user, identity.role]
            cursor = await connection.execute(STORE, values)
            row = await cursor.fetchone()
            await audit.record(connection, "hub_token_stored", account)
        assert row is not None
        return stored(row)

    async def test(self, account: str) -> StoredHubToken:
        """Ask the Hub whether it still accepts the account's token.

        Raises:
            NotFound: the account has none.
            ModelRefused: the Hub does not accept it.
            HubUnavailable: the Hub cannot be asked.
        """
        identity = await self._ask_hub(await self._decrypt(account))
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update hub_tokens set hub_user = %s, role = %s, checked_at = now()"
                " where account_id = %s returning hub_user, role, stored_at, checked_at",
                [identity.user, identity.role, account],
            )
            row = await cursor.fetchone()
        if row is None:
            raise _absent()
        return stored(row)

    async def _ask_hub(self, token: str | None) -> HubIdentity:
        why = "the stored token cannot be read any more"
        if token is not None:
            try:
                return await self.bus.call(CHECK_HUB_TOKEN, HubTokenCheck(token=token))
            except InvalidRequest:
                why = "the Hub does not accept your Hub token any more"
        raise ModelRefused(
            f"{why}; store another with PUT /v1/api/account/hub-token", reason="hub-token"
        )

    async def delete(self, account: str) -> None:
        """Delete the token; raises NotFound."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "delete from hub_tokens where account_id = %s", [account]
            )
            if not cursor.rowcount:
                raise _absent()
            await audit.record(connection, "hub_token_deleted", account)

    @answers(HUB_TOKEN)
    async def find(self, request: HubTokenRequest) -> HubToken:
        """Return an account's token, for the services that read the Hub."""
        try:
            token = await self._decrypt(request.account)
        except NotFound:
            return HubToken()
        if token is None:
            log.error("hub token cannot be decrypted", account=request.account)
        return HubToken(token=token)

    async def _decrypt(self, account: str) -> str | None:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select token from hub_tokens where account_id = %s", [account]
            )
            row = await cursor.fetchone()
        if row is None:
            raise _absent()
        return self.encryption.decrypt(row[0], account)


def stored(row: tuple[object, ...]) -> StoredHubToken:
    """Return the public description of a token, from its columns."""
    names = ("user", "role", "stored_at", "checked_at")
    return StoredHubToken.model_validate(dict(zip(names, row, strict=True)))


def _absent() -> NotFound:
    return NotFound("no Hub token is stored; PUT /v1/api/account/hub-token stores one")
