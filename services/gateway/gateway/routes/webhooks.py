"""Routes of webhooks, to which the events of an account's models are posted."""

from common.bus import Bus
from common.contracts.webhooks import (
    ADD_WEBHOOK,
    CHANGE_WEBHOOK,
    LIST_DELIVERIES,
    LIST_WEBHOOKS,
    REDELIVER,
    REMOVE_WEBHOOK,
    ROTATE_SECRET,
    TEST_WEBHOOK,
    Deliveries,
    DeliveriesOfWebhook,
    DeliveriesRequest,
    Delivery,
    DeliveryName,
    NewWebhook,
    Webhook,
    WebhookChange,
    WebhookChangeRequest,
    WebhookName,
    Webhooks,
    WebhooksRequest,
)
from gateway.endpoint import MAX_SMALL_BODY_BYTES, Call, Route


class WebhookRoutes:
    """Routes that manage webhooks and their deliveries."""

    tag = "Webhooks"

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    @Route("GET", "/webhooks", summary="List webhooks", allows="monitor:read", reply=Webhooks)
    async def list_webhooks(self, _: Call, __: None) -> bytes:
        """List the account's webhooks, oldest first, without their secrets."""
        return await self.bus.pass_on(LIST_WEBHOOKS, WebhooksRequest())

    @Route(
        "POST",
        "/webhooks",
        summary="Add a webhook",
        allows="monitor:write",
        body=NewWebhook,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=Webhook,
        status=201,
        idempotent=True,
    )
    async def add_webhook(self, _: Call, body: NewWebhook) -> bytes:
        """Add a URL to which events are posted, signed as Standard Webhooks specifies.

        The answer contains the signing secret; it is shown once.
        """
        return await self.bus.pass_on(ADD_WEBHOOK, body)

    @Route(
        "PATCH",
        "/webhooks/{webhook_id}",
        summary="Change a webhook",
        allows="monitor:write",
        body=WebhookChange,
        max_body_bytes=MAX_SMALL_BODY_BYTES,
        reply=Webhook,
        errors=(404,),
    )
    async def change_webhook(self, call: Call, body: WebhookChange) -> bytes:
        """Change a webhook's URL or events, or turn it off or on; omitted fields are kept."""
        changes = body.model_dump(exclude_unset=True)
        request = WebhookChangeRequest(id=call.path_parameter("webhook_id"), changes=changes)
        return await self.bus.pass_on(CHANGE_WEBHOOK, request)

    @Route(
        "DELETE",
        "/webhooks/{webhook_id}",
        summary="Delete a webhook",
        allows="monitor:write",
        status=204,
        errors=(404,),
    )
    async def remove_webhook(self, call: Call, _: None) -> None:
        """Delete a webhook with the log of its deliveries."""
        await self.bus.call(REMOVE_WEBHOOK, WebhookName(id=call.path_parameter("webhook_id")))

    @Route(
        "POST",
        "/webhooks/{webhook_id}/secret",
        summary="Rotate a webhook's secret",
        allows="monitor:write",
        reply=Webhook,
        errors=(404,),
    )
    async def rotate_secret(self, call: Call, _: None) -> bytes:
        """Create a new secret, shown once. For 24 hours the former one signs as well."""
        name = WebhookName(id=call.path_parameter("webhook_id"))
        return await self.bus.pass_on(ROTATE_SECRET, name)

    @Route(
        "POST",
        "/webhooks/{webhook_id}/test",
        summary="Test a webhook",
        allows="monitor:write",
        reply=Delivery,
        errors=(404,),
    )
    async def try_webhook(self, call: Call, _: None) -> bytes:
        """Post an event of type `test` now, once, and return the outcome."""
        name = WebhookName(id=call.path_parameter("webhook_id"))
        return await self.bus.pass_on(TEST_WEBHOOK, name)

    @Route(
        "GET",
        "/webhooks/{webhook_id}/deliveries",
        summary="List a webhook's deliveries",
        allows="monitor:read",
        query=DeliveriesRequest,
        reply=Deliveries,
        errors=(404,),
    )
    async def list_deliveries(self, call: Call, query: DeliveriesRequest) -> bytes:
        """List deliveries with their attempts, newest first; they are kept for 30 days."""
        request = DeliveriesOfWebhook(
            id=call.path_parameter("webhook_id"), **query.model_dump(by_alias=False)
        )
        return await self.bus.pass_on(LIST_DELIVERIES, request)

    @Route(
        "POST",
        "/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver",
        summary="Deliver an event again",
        allows="monitor:write",
        reply=Delivery,
        errors=(404,),
    )
    async def redeliver(self, call: Call, _: None) -> bytes:
        """Post an event again, with the same id and the full number of attempts."""
        name = DeliveryName(
            id=call.path_parameter("webhook_id"), delivery=call.path_parameter("delivery_id")
        )
        return await self.bus.pass_on(REDELIVER, name)
