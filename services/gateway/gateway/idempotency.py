"""`Idempotency-Key`: a repeated request is carried out once.

The first request with a key claims it by one statement, does the work, and
stores its answer for 24 hours; whoever sends the key again gets that answer.
A claim is a lease, renewed while the work goes on: when a gateway dies in the
middle, the next request with the key takes over a few seconds later, and the
key travels with it on the bus, so that what was made already is not made
again.

Answers can hold what must not lie in a database (an API key is shown once),
so they are encrypted with a key that is derived from the idempotency key,
which itself is not stored: who has the database but not the key reads
nothing. (That is as strong as the caller's key is hard to guess: use a UUID.)
"""

import asyncio
import contextlib
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import orjson
import structlog
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from common.background import alongside
from common.errors import Conflict, InvalidRequest, ServiceError
from common.postgres import Connection, Database
from gateway.answer import Answer

log = structlog.get_logger()

# Age at which stored answers are deleted.
RETENTION_H = 24
# A gateway that has not renewed its claim for this long counts as dead.
LEASE_S = 10.0
UNDER_WAY = "the first request with this Idempotency-Key is still under way; try again"
FORM = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")

# One statement, so that exactly one of many concurrent requests claims the key: if it is free, its
# holder is dead, or it is older than a day. All of them get the row.
OLD = f"held.created_at < now() - interval '{RETENTION_H} hours'"
FREE = (
    f"({OLD} or held.answer is null and held.leased_until < now()"
    " and held.fingerprint = excluded.fingerprint)"
)
CLAIM = f"""
insert into idempotency as held (id, fingerprint, lease, leased_until)
values (%(id)s, %(fingerprint)s, %(lease)s, now() + interval '{LEASE_S} seconds')
on conflict (id) do update set
    lease = case when {FREE} then excluded.lease else held.lease end,
    leased_until = case when {FREE} then excluded.leased_until else held.leased_until end,
    fingerprint = case when {OLD} then excluded.fingerprint else held.fingerprint end,
    answer = case when {OLD} then null else held.answer end,
    created_at = case when {OLD} then now() else held.created_at end
returning lease = %(lease)s, fingerprint = %(fingerprint)s, answer
"""  # noqa: S608  (constants)
FIND = f"""
select answer from idempotency as held
where id = %s and fingerprint = %s and answer is not null and not {OLD}
"""  # noqa: S608  (constants)


class Idempotency:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def once(
        self,
        account: str,
        key: bytes,
        request: bytes,
        work: Callable[[str], Awaitable[Answer]],
        join: Callable[[str], Awaitable[Answer]] | None = None,
    ) -> Answer:
        """Return the answer of `work`, or the stored one of the same request.

        Args:
            account: the owner of the key; keys of different accounts are different keys.
            key: as the caller sent it.
            request: the request in a canonical form.
            work: called with the digest of key and request, by which services recognise
                a repeated request. (The key alone may come with another request after a
                failure, or a day.) Its answer is stored unless it is 429 or 5xx.
            join: called with the same digest for a repeated request while the first is in
                progress; its answer is not stored. Without it: Conflict.

        Raises:
            InvalidRequest: the key is not 1 to 255 printable ASCII characters.
            Conflict: 409, the first request is still under way; 422, the key
                came with another request.
        """
        id, secret = _names(account, key)
        lease = secrets.token_hex(8)
        fingerprint = hashlib.sha256(request).digest()
        claimed, same, stored = await self._claim(id, fingerprint, lease)
        if not same:
            raise Conflict(
                "this Idempotency-Key was used with another request; send a new key", status=422
            )
        if stored is not None:
            return _replay(secret, stored)
        digest = hashlib.sha256(id + fingerprint).hexdigest()
        if not claimed:
            if join is None:
                raise Conflict(UNDER_WAY, retry_after=1)
            return await join(digest)
        is_stored = False
        try:
            async with self._renewed(id, lease):
                answer = await work(digest)
            if answer.status < 500 and answer.status != 429:
                try:
                    is_stored = await self._store(id, lease, _seal(secret, answer))
                except ServiceError as error:  # the next request does the work again
                    log.warning("answer not stored", error=error.message)
                else:
                    if not is_stored:
                        return await self._find_successor(account, key, request)
        finally:
            if not is_stored:
                await self._release(id, lease)
        return answer

    async def _find_successor(self, account: str, key: bytes, request: bytes) -> Answer:
        """Return the answer stored by the gateway that took over this one's expired lease.

        An API key, say, has the secret that was made for it last.
        """
        answer = await self.find(account, key, request)
        if answer is None:
            raise Conflict(UNDER_WAY, retry_after=1)
        return answer

    async def find(self, account: str, key: bytes, request: bytes) -> Answer | None:
        """Return the stored answer of the same request, if any; claim nothing.

        Raises:
            InvalidRequest: as `once`.
        """
        id, secret = _names(account, key)
        async with self.database.connection() as connection:
            cursor = await connection.execute(FIND.encode(), [id, hashlib.sha256(request).digest()])
            row = await cursor.fetchone()
        return None if row is None else _replay(secret, row[0])

    async def _claim(
        self, id: bytes, fingerprint: bytes, lease: str
    ) -> tuple[bool, bool, bytes | None]:
        values = {"id": id, "fingerprint": fingerprint, "lease": lease}
        async with self.database.connection() as connection:
            cursor = await connection.execute(CLAIM.encode(), values)
            row = await cursor.fetchone()
        assert row is not None
        return row[0], row[1], row[2]

    @asynccontextmanager
    async def _renewed(self, id: bytes, lease: str) -> AsyncIterator[None]:
        async def renew() -> None:
            await asyncio.sleep(LEASE_S / 3)  # it has just been taken
            async with self.database.connection() as connection:
                await connection.execute(
                    "update idempotency set leased_until = now() + %s * interval '1 second'"
                    " where id = %s and lease = %s",
                    [LEASE_S, id, lease],
                )

        async with alongside(renew, every_s=0):
            yield

    async def _store(self, id: bytes, lease: str, sealed: bytes) -> bool:
        """Store the answer; return whether the lease was still held. Raise Unavailable."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update idempotency set answer = %s where id = %s and lease = %s",
                [sealed, id, lease],
            )
            return cursor.rowcount == 1

    async def _release(self, id: bytes, lease: str) -> None:
        with contextlib.suppress(ServiceError):  # then it ends by itself
            async with self.database.connection() as connection:
                await connection.execute(
                    "delete from idempotency where id = %s and lease = %s and answer is null",
                    [id, lease],
                )


async def forget_old(connection: Connection) -> None:
    await connection.execute(
        "delete from idempotency where created_at < now() - %s * interval '1 hour'", [RETENTION_H]
    )


def _names(account: str, key: bytes) -> tuple[bytes, AESGCM]:
    """Derive the row id of an idempotency key, and the cipher of its answer."""
    if not FORM.fullmatch(key):
        raise InvalidRequest(
            "Idempotency-Key: must be 1 to 255 printable ASCII characters, such as a UUID"
        )
    own = account.encode() + b"\0" + key
    return hashlib.sha256(own).digest(), AESGCM(hashlib.sha256(b"answer\0" + own).digest())


def _seal(secret: AESGCM, answer: Answer) -> bytes:
    nonce = secrets.token_bytes(12)
    head = orjson.dumps([answer.status, answer.media_type, answer.headers])
    plain = len(head).to_bytes(4, "big") + head + answer.content
    return nonce + secret.encrypt(nonce, plain, None)


def _replay(secret: AESGCM, stored: bytes) -> Answer:
    plain = secret.decrypt(stored[:12], stored[12:], None)
    end = 4 + int.from_bytes(plain[:4], "big")
    status, media_type, headers = orjson.loads(plain[4:end])
    headers["Idempotent-Replayed"] = "true"
    return Answer(plain[end:], media_type, status, headers)
