"""An account's API keys: made, listed, changed, revoked."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import nats.errors
import structlog
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from common import context
from common.bus import Bus
from common.contracts import Input, Message
from common.contracts.access import KEY_REVOKED, KeyRevoked
from common.errors import Conflict, InvalidRequest, NotFound
from common.postgres import Connection, Database
from gateway import audit, keys
from gateway.idempotency import KEPT

log = structlog.get_logger()

Scope = Literal["generate", "benchmark", "monitor:read", "monitor:write"]
Name = Annotated[
    str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")
]


def _once_each(scopes: list[Scope]) -> list[Scope]:
    return list(dict.fromkeys(scopes))


Scopes = Annotated[
    list[Scope], Field(min_length=1, max_length=len(keys.SCOPES)), AfterValidator(_once_each)
]

# An account that needs more than this has lost control of them.
MOST_KEYS = 100
# Later than anybody means, and far enough from the last year that there is.
LATEST = datetime(3000, 1, 1, tzinfo=UTC)
COLUMNS = "id, name, prefix, scopes, created_at, expires_at, last_used_at"

# With a limit.
INSERT = f"""
insert into keys (id, account_id, name, prefix, hash, scopes, expires_at, request)
select %(id)s, %(account)s, %(name)s, %(prefix)s, %(hash)s, %(scopes)s, %(expires_at)s, %(request)s
where (select count(*) from keys where account_id = %(account)s and revoked_at is null) < %(most)s
returning {COLUMNS}
"""  # noqa: S608  (a constant)
# What the same request made before. Later than a day after it is another request.
REMAKE = f"""
update keys set name = %(name)s, prefix = %(prefix)s, hash = %(hash)s, scopes = %(scopes)s,
    expires_at = %(expires_at)s
where account_id = %(account)s and request = %(request)s and revoked_at is null
    and created_at > now() - interval '{KEPT} hours'
returning {COLUMNS}
"""  # noqa: S608  (constants)
UPDATE = f"""
update keys set name = coalesce(%s, name), scopes = coalesce(%s, scopes),
    expires_at = case when %s then %s else expires_at end
where account_id = %s and id = %s and revoked_at is null
returning {COLUMNS}
"""  # noqa: S608  (a constant)


class NewKey(Input):
    name: Name = Field(examples=["laptop"])
    scopes: Scopes | None = Field(None, description="All of them when left out.")
    expires_at: AwareDatetime | None = Field(None, description="Never when left out.")


class KeyChange(Input):
    """What is left out stays as it is; `expiresAt: null` means never."""

    name: Name | None = None
    scopes: Scopes | None = None
    expires_at: AwareDatetime | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name, scopes or expiresAt: at least one")
        return self


class Key(Message):
    id: str
    name: str
    prefix: str = Field(description="The key's first characters, to tell it from others.")
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None = Field(None, description="Within the last ten seconds or so.")


class CreatedKey(Key):
    key: str = Field(description="The key itself. It is shown this once and cannot be read again.")


class Keys(Message):
    keys: list[Key]


class KeyRing:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus

    async def create(self, account: str, new: NewKey) -> CreatedKey:
        """A new key.

        A request that is repeated with its idempotency key after a crash finds
        the key that the first one made, whose secret nobody ever saw, and
        gives it a new secret: there is one key in the end.

        Raises:
            InvalidRequest: it would have expired already.
            Conflict: the account has too many.
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
            "most": MOST_KEYS,
        }
        async with self.database.connection() as connection:
            # One after the other: each is to count the keys of those before.
            await connection.execute(
                "select 1 from accounts where id = %s for no key update", [account]
            )
            row = await (await connection.execute(REMAKE, values)).fetchone()
            if row is None:
                row = await (await connection.execute(INSERT, values)).fetchone()
            if row is None:
                raise Conflict(f"an account has {MOST_KEYS} keys at most; revoke one", status=409)
            await audit.record(connection, "key_created", account, key=row[0])
        return CreatedKey(**_key(row).model_dump(), key=key)

    async def list(self, account: str) -> Keys:
        """The account's keys that are not revoked, oldest first."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                f"select {COLUMNS} from keys"  # noqa: S608  (a constant)
                " where account_id = %s and revoked_at is null order by created_at, id",
                [account],
            )
            rows = await cursor.fetchall()
        return Keys(keys=[_key(row) for row in rows])

    async def get(self, account: str, id: str) -> Key:
        """Raises NotFound also for somebody else's key."""
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
        """Raises NotFound also for somebody else's key."""
        _check_expiry(change.expires_at)
        fields: dict[str, Any] = {
            name: value
            for name, value in change.model_dump(exclude_unset=True, by_alias=False).items()
            # Only the expiry can be taken away.
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
            await self._tell(account, id, _key(row).scopes)
        return _key(row)

    async def revoke(self, account: str, id: str) -> None:
        """Raises NotFound also for somebody else's key."""
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
        await self._tell(account, id, [])

    async def _tell(self, account: str, id: str, scopes: Sequence[str]) -> None:
        """Every replica forgets the key, and its sockets close if it may not have them now.

        A replica that cannot hear this trusts the key for five seconds more at most.
        """
        body = KeyRevoked(account=account, key=id, scopes=[*scopes])
        try:
            await self.bus.publish(KEY_REVOKED, body, account, id)
        except (nats.errors.Error, OSError):
            log.warning("revocation not told", key=id)

    async def _absent(self, account: str, id: str) -> NotFound:
        """The same, and as slow, for a key that never was and for somebody else's."""
        async with self.database.connection() as connection:
            await audit.record(connection, "key_not_found", account, key=audit.as_id(id))
        return NotFound("there is no such key")


async def write_last_use(connection: Connection, used: dict[str, float]) -> None:
    """When keys were used last, in seconds since 1970 by their ids."""
    await connection.execute(
        "update keys set last_used_at = greatest(last_used_at, to_timestamp(used.at))"
        " from unnest(%s::text[], %s::double precision[]) as used (id, at)"
        " where keys.id = used.id",
        [list(used), list(used.values())],
    )


def _check_expiry(expires_at: datetime | None) -> None:
    if expires_at is not None and not datetime.now(UTC) < expires_at < LATEST:
        message = "give a time to come, before the year 3000"
        field = {"path": "expiresAt", "message": message}
        raise InvalidRequest(f"expiresAt: {message}", fields=[field])


def _key(row: tuple[object, ...]) -> Key:
    return Key.model_validate(dict(zip(COLUMNS.split(", "), row, strict=True)))
