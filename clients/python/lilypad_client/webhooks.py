"""Webhooks: addresses that receive events, and the deliveries to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lilypad_client import operations
from lilypad_client.operation import camel
from lilypad_client.resource import Emit, Flow, Items, Mode, Resource, operation, stream

if TYPE_CHECKING:
    from typing import Literal, Unpack

    from lilypad_client import types
    from lilypad_client.params import NewWebhookFields, WebhookChangeFields


class Webhooks(Resource[Mode]):
    """Webhooks of the account."""

    @operation
    def list(self) -> Flow[types.Webhooks]:
        """List all webhooks, without their secrets."""
        return self._call(operations.LIST_WEBHOOKS)

    @operation
    def add(self, **fields: Unpack[NewWebhookFields]) -> Flow[types.Webhook]:
        """Add a webhook; only this answer contains its secret."""
        return self._call(operations.ADD_WEBHOOK, body=camel(fields))

    @operation
    def change(self, id: str, **fields: Unpack[WebhookChangeFields]) -> Flow[types.Webhook]:
        """Change, disable or enable a webhook; omitted fields are unchanged."""
        return self._call(operations.CHANGE_WEBHOOK, webhook_id=id, body=camel(fields))

    @operation
    def remove(self, id: str) -> Flow[None]:
        """Remove a webhook and its delivery log."""
        return self._call(operations.REMOVE_WEBHOOK, webhook_id=id)

    @operation
    def rotate_secret(self, id: str) -> Flow[types.Webhook]:
        """Create a new secret; for 24 hours, deliveries are signed with the former secret too."""
        return self._call(operations.ROTATE_SECRET, webhook_id=id)

    @operation
    def test(self, id: str) -> Flow[types.Delivery]:
        """Post an event of type `test`, and return the outcome."""
        return self._call(operations.TRY_WEBHOOK, webhook_id=id)

    @stream
    def deliveries(
        self,
        id: str,
        *,
        state: Literal["pending", "succeeded", "failed"] | None = None,
        page_size: int = 100,
    ) -> Items[types.Delivery]:
        """Yield a webhook's deliveries, newest first, with every attempt."""
        before = None
        while True:
            query = {"state": state, "limit": page_size, "before": before}
            page = yield from self._call(operations.LIST_DELIVERIES, webhook_id=id, query=query)
            for delivery in page.deliveries:
                yield Emit(delivery)
            if len(page.deliveries) < page_size:
                return
            before = page.deliveries[-1].id

    @operation
    def redeliver(self, id: str, delivery: str) -> Flow[types.Delivery]:
        """Redeliver an event with the full number of attempts."""
        return self._call(operations.REDELIVER, webhook_id=id, delivery_id=delivery)
