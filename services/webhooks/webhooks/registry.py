"""An account's stored webhooks."""

import base64
import secrets
from datetime import timedelta
from typing import Any

from psycopg.rows import dict_row
from pydantic import ValidationError

from common.contracts.webhooks import (
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookChangeRequest,
    Webhooks,
)
from common.errors import InvalidRequest, NotFound
from common.faults import invalid
from common.postgres import Database
from webhooks.addresses import Addresses
from webhooks.sealing import Sealing

# Time that a receiver has to change over to a new secret.
FORMER_SECRET_KEPT = timedelta(hours=24)
SECRET_BYTES = 32
# Deliveries waiting for a webhook when it is turned off are not posted after it is turned on.
FAIL_WAITING = """
update deliveries set state = 'failed', next_at = null where webhook = %s and state = 'pending'
"""
FIELDS = "id, url, events, enabled, disabled_reason, created_at"
INSERT = f"""
insert into webhooks (id, account, url, events, secret) values (%s, %s, %s, %s, %s)
returning {FIELDS}
"""  # noqa: S608  (constants, as below)
LIST = f"select {FIELDS} from webhooks where account = %s order by created_at, id"  # noqa: S608
CHANGE = f"""
update webhooks set url = coalesce(%(url)s, url), events = coalesce(%(events)s, events),
    enabled = coalesce(%(enabled)s, enabled),
    disabled_reason = case when %(enabled)s then null else disabled_reason end
where account = %(account)s and id = %(id)s returning {FIELDS}
"""  # noqa: S608
ROTATE = f"""
update webhooks set former_secret = secret, former_until = now() + %s, secret = %s
where account = %s and id = %s returning {FIELDS}
"""  # noqa: S608


class WebhookStore:
    def __init__(
        self, database: Database, addresses: Addresses, sealing: Sealing, max_webhooks: int
    ) -> None:
        self.database = database
        self.addresses = addresses
        self.sealing = sealing
        self.max_webhooks = max_webhooks

    async def add(self, account: str, new: NewWebhook) -> Webhook:
        """Store a webhook, and return it with its secret.

        Raises:
            InvalidRequest: an address that may not be posted to, or one webhook too many.
        """
        await self.addresses.check(new.url)
        async with self.database.connection() as connection:
            await connection.execute(
                "select pg_advisory_xact_lock(hashtext('webhooks'), hashtext(%s))", [account]
            )
            cursor = await connection.execute(
                "select count(*) >= %s from webhooks where account = %s",
                [self.max_webhooks, account],
            )
            if await cursor.fetchone() == (True,):
                raise InvalidRequest(
                    f"an account may have {self.max_webhooks} webhooks; delete one first",
                    limit=self.max_webhooks,
                )
            rows = connection.cursor(row_factory=dict_row)
            id, secret = _new_id(), _new_secret()
            sealed = self.sealing.seal(secret, id)
            await rows.execute(INSERT, [id, account, new.url, sorted(set(new.events)), sealed])
            return _found(await rows.fetchone()).model_copy(update={"secret": secret})

    async def all_of(self, account: str) -> Webhooks:
        """Return the account's webhooks, oldest first, without their secrets."""
        async with self.database.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(LIST, [account])
            return Webhooks(webhooks=[Webhook(**row) for row in await cursor.fetchall()])

    async def change(self, account: str, request: WebhookChangeRequest) -> Webhook:
        """Change a webhook's address or events, or turn it on or off.

        Raises:
            NotFound: no such webhook, or another account's.
            InvalidRequest: a field has a value that it may not have.
        """
        try:
            change = WebhookChange.model_validate(request.changes)
        except ValidationError as error:
            raise invalid(error, WebhookChange) from None
        if change.url is not None:
            await self.addresses.check(change.url)
        async with self.database.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                CHANGE,
                {**change.model_dump(), "account": account, "id": request.id},
            )
            changed = _found(await cursor.fetchone())
            if not changed.enabled:
                await connection.execute(FAIL_WAITING, [request.id])
            return changed

    async def rotate_secret(self, account: str, id: str) -> Webhook:
        """Give a webhook a new secret; the former one signs too, for a day.

        Raises:
            NotFound: no such webhook, or another account's.
        """
        async with self.database.connection() as connection:
            cursor = connection.cursor(row_factory=dict_row)
            secret = _new_secret()
            sealed = self.sealing.seal(secret, id)
            await cursor.execute(ROTATE, [FORMER_SECRET_KEPT, sealed, account, id])
            return _found(await cursor.fetchone()).model_copy(update={"secret": secret})

    async def remove(self, account: str, id: str) -> None:
        """Delete a webhook with its deliveries.

        Raises:
            NotFound: no such webhook, or another account's.
        """
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "delete from webhooks where account = %s and id = %s", [account, id]
            )
            if not cursor.rowcount:
                raise missing()


def missing() -> NotFound:
    return NotFound("no such webhook; GET /v1/api/webhooks lists them")


def _found(row: dict[str, Any] | None) -> Webhook:
    if row is None:
        raise missing()
    return Webhook.model_validate(row)


def _new_id() -> str:
    return f"hook_{secrets.token_hex(12)}"


def _new_secret() -> str:
    """Return a secret of Standard Webhooks: random bytes in base64, with prefix `whsec_`."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()
