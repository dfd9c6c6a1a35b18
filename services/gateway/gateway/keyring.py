"""An account's API keys: create, list, change and revoke them."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import nats.errors
import structlog
from pydantic import AfterValidator, AwareDatetime, Field, model_validator

from common import context
from common.bus import Bus
from common.contracts import Input, Message
from common.contracts.access import KEY_REVOKED, KeyRevoked
from common.contracts.invisible import Name
from common.errors import Conflict, InvalidRequest, NotFound
from common.postgres import Connection, Database
from gateway import audit, keys
from gateway.idempotency import RETENTION_H

log = structlog.get_logger()

Scope = Literal["generate", "benchmark", "monitor:read", "monitor:write"]


def _once_each(scopes: list[Scope]) -> list[Scope]:
    return list(dict.fromkeys(scopes))


Scopes = Annotated[
    list[Scope], Field(min_length=1, max_length=len(keys.SCOPES)), AfterValidator(_once_each)
]

# An account that needs more than this has lost control of its keys.
MAX_KEYS = 100
# Later than anyone can mean, and well before the last year of a datetime.
MAX_EXPIRY = datetime(3000, 1, 1, tzinfo=UTC)
COLUMNS = "id, name, prefix, scopes, created_at, expires_at, last_used_at"

# Inserts nothing beyond the account's limit.
INSERT = f"""
insert into keys (id, account_id, name, prefix, hash, scopes, expires_at, request)
select %(id)s, %(account)s, %(name)s, %(prefix)s, %(hash)s, %(scopes)s, %(expires_at)s, %(request)s
where (select count(*) from keys where account_id = %(account)s and revoked_at is null) < %(max)s
returning {COLUMNS}
"""  # noqa: S608  (a constant)
# Replaces the key that the same request created before; after a day it is another request.
REMAKE = f"""
update keys set name = %(name)s, prefix = %(prefix)s, hash = %(hash)s, scopes = %(scopes)s,
    expires_at = %(expires_at)s
where account_id = %(account)s and request = %(request)s and revoked_at is null
    and created_at > now() - interval '{RETENTION_H} hours'
returning {COLUMNS}
"""  # noqa: S608  (constants)
UPDATE = f"""
update keys set name = coalesce(%s, name), scopes = coalesce(%s, scopes),
    expires_at = case when %s then %s else expires_at end
where account_id = %s and id = %s and revoked_at is null
returning {COLUMNS}
"""  # noqa: S608  (a constant)


class NewKey(Input):
    name: Name = Field(examples=["laptop"], description="A name for the key; only you see it.")
    scopes: Scopes | None = Field(
        None, examples=[["monitor:read"]], description="Defaults to all scopes."
    )
    expires_at: AwareDatetime | None = Field(
        None, description="Expiry of the key; defaults to never."
    )


class KeyChange(Input):
    """Fields of a key to change; omitted ones stay as they are. `expiresAt: null` means never."""

    name: Name | None = Field(None, description="A new name.")
    scopes: Scopes | None = Field(
        None, examples=[["monitor:read"]], description="All scopes from now on."
    )
    expires_at: AwareDatetime | None = Field(None, description="Expiry of the key; null: never.")

    @model_validator(mode="after")
    def _require_a_change(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("send at least one of `name`, `scopes` and `expiresAt`")
        return self


class Key(Message):
    id: str = Field(description="Id of the key.")
    name: str = Field(description="Its name.")
    prefix: str = Field(description="The key's first characters, to tell it from others.")
    scopes: list[Scope] = Field(description="Operations that the key permits.")
    created_at: datetime = Field(description="Time at which it was created.")
    expires_at: datetime | None = Field(description="Expiry of the key; null: never.")
    last_used_at: datetime | None = Field(
        None, description="Time of the last use, accurate to some ten seconds."
    )


class CreatedKey(Key):
    key: str = Field(description="The key itself. It is shown this once and cannot be read again.")


class Keys(Message):
    keys: list[Key] = Field(description="The account's keys, oldest first.")


class KeyRing:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus

    async def create(self, account: str, new: NewKey) -> CreatedKey:
        """Create a key.

        A request that is repeated with its idempotency key after a crash
        replaces the secret of the key that the first request created, which was
        never sent: only one key exists.

        Raises:
            InvalidRequest: `expiresAt` is not in the future, or too far in it.
            Conflict: the account has `MAX_KEYS` keys.
        """
        _check_expiry(new.expires_at)
        key = keys.make_key()
        values = {
            "id": f"key_{secrets.token_hex(12)}",
            "account": account,
            "name": new.name,
            "prefix": keys.shown_prefix(key),
            "hash": keys.hash_key(key),
            "scopes": list(new.scopes or keys.SCOPES),
            "expires_at": new.expires_at,
            "request": context.current.get().idempotency_key or None,
            "max": MAX_KEYS,
        }
        async with self.database.connection() as connection:
            # Serialised, so that each request counts the keys of those before it.
            await connection.execute(
                "select 1 from accounts where id = %s for no key update", [account]
            )
            row = await (await connection.execute(REMAKE, values)).fetchone()
            if row is None:
                row = await (await connection.execute(INSERT, values)).fetchone()
            if row is None:
                raise Conflict(f"at most {MAX_KEYS} API keys per account; revoke one", status=409)
            await audit.record(connection, "key_created", account, key=row[0])
        return CreatedKey(**_key(row).model_dump(), key=key)

    async def list(self, account: str) -> Keys:
        """Return the account's keys that are not revoked, oldest first."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                f"select {COLUMNS} from keys"  # noqa: S608  (a constant)
                " where account_id = %s and revoked_at is null order by created_at, id",
                [account],
            )
            rows = await cursor.fetchall()
        return Keys(keys=[_key(row) for row in rows])

    async def get(self, account: str, id: str) -> Key:
        """Return a key; raise NotFound for a missing key and for another account's."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                f"select {COLUMNS} from keys"  # noqa: S608  (a constant)
                " where account_id = %s and id = %s and revoked_at is null",
                [account, id],
            )
            row = await cursor.fetchone()
        if row is None:
            raise await self._absent(account, id)
        return _key(row)

    async def change(self, account: str, id: str, change: KeyChange) -> Key:
        """Change a key; raise NotFound for a missing key and for another account's."""
        _check_expiry(change.expires_at)
        fields: dict[str, Any] = {
            name: value
            for name, value in change.model_dump(exclude_unset=True, by_alias=False).items()
            # `null` can only mean a removed expiry.
            if value is not None or name == "expires_at"
        }
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                UPDATE,
                [
                    fields.get("name"),
                    fields.get("scopes"),
                    "expires_at" in fields,
                    fields.get("expires_at"),
                    account,
                    id,
                ],
            )
            row = await cursor.fetchone()
            if row is not None:
                await audit.record(connection, "key_changed", account, key=id, what=sorted(fields))
        if row is None:
            raise await self._absent(account, id)
        if "scopes" in fields or "expires_at" in fields:
            await self._publish_change(account, id, _key(row).scopes)
        return _key(row)

    async def revoke(self, account: str, id: str) -> None:
        """Revoke a key; raise NotFound for a missing key and for another account's."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update keys set revoked_at = now()"
                " where account_id = %s and id = %s and revoked_at is null",
                [account, id],
            )
            revoked = cursor.rowcount == 1
            if revoked:
                await audit.record(connection, "key_revoked", account, key=id)
        if not revoked:
            raise await self._absent(account, id)
        await self._publish_change(account, id, [])

    async def _publish_change(self, account: str, id: str, scopes: Sequence[str]) -> None:
        """Publish a key's revocation or new scopes, so that replicas drop the cached key.

        A replica that misses the event trusts the key for at most five more seconds.
        """
        body = KeyRevoked(account=account, key=id, scopes=[*scopes])
        try:
            await self.bus.publish(KEY_REVOKED, body, account, id)
        except (nats.errors.Error, OSError):
            log.warning("revocation not published", key=id)

    async def _absent(self, account: str, id: str) -> NotFound:
        """Record and return a NotFound, the same for a missing key and another account's."""
        async with self.database.connection() as connection:
            await audit.record(connection, "key_not_found", account, key=audit.as_id(id))
        return NotFound("no such API key; GET /v1/api/keys lists them")


async def write_last_use(connection: Connection, used: dict[str, float]) -> None:
    """Write the keys' last use, given in seconds since 1970 by key id."""
    await connection.execute(
        "update keys set last_used_at = greatest(last_used_at, to_timestamp(used.at))"
        " from unnest(%s::text[], %s::double precision[]) as used (id, at)"
        " where keys.id = used.id",
        [list(used), list(used.values())],
    )


def _check_expiry(expires_at: datetime | None) -> None:
    if expires_at is not None and not datetime.now(UTC) < expires_at < MAX_EXPIRY:
        message = "must be a future time before the year 3000"
        field = {"path": "expiresAt", "message": message}
        raise InvalidRequest(f"expiresAt: {message}", fields=[field])


def _key(row: tuple[object, ...]) -> Key:
    return Key.model_validate(dict(zip(COLUMNS.split(", "), row, strict=True)))
