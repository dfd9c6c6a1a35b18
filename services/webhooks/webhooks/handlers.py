"""Handlers of the webhooks service: accounts' webhooks, and events to deliver."""

from common.context import current
from common.contracts.webhooks import (
    ADD_WEBHOOK,
    CHANGE_WEBHOOK,
    LIST_DELIVERIES,
    LIST_WEBHOOKS,
    NOTE,
    REDELIVER,
    REMOVE_WEBHOOK,
    ROTATE_SECRET,
    TEST_WEBHOOK,
    Deliveries,
    DeliveriesOfWebhook,
    Delivery,
    DeliveryName,
    NewWebhook,
    Occurrences,
    OccurrencesStored,
    Webhook,
    WebhookChangeRequest,
    WebhookName,
    WebhookRemoved,
    Webhooks,
    WebhooksRequest,
)
from common.service import answers
from webhooks.deliveries import DeliveryStore
from webhooks.post import Poster
from webhooks.registry import WebhookStore
from webhooks.sender import Sender


class Handlers:
    def __init__(
        self, webhooks: WebhookStore, deliveries: DeliveryStore, poster: Poster, sender: Sender
    ) -> None:
        self.webhooks = webhooks
        self.deliveries = deliveries
        self.poster = poster
        self.sender = sender

    @answers(ADD_WEBHOOK, at_once=16, waiting=64)
    async def add(self, new: NewWebhook) -> Webhook:
        return await self.webhooks.add(current.get().account, new)

    @answers(LIST_WEBHOOKS)
    async def list_webhooks(self, _: WebhooksRequest) -> Webhooks:
        return await self.webhooks.all_of(current.get().account)

    @answers(CHANGE_WEBHOOK, at_once=16, waiting=64)
    async def change(self, request: WebhookChangeRequest) -> Webhook:
        return await self.webhooks.change(current.get().account, request)

    @answers(REMOVE_WEBHOOK)
    async def remove(self, name: WebhookName) -> WebhookRemoved:
        await self.webhooks.remove(current.get().account, name.id)
        return WebhookRemoved()

    @answers(ROTATE_SECRET)
    async def rotate_secret(self, name: WebhookName) -> Webhook:
        return await self.webhooks.rotate_secret(current.get().account, name.id)

    @answers(TEST_WEBHOOK, at_once=16, waiting=16)
    async def test(self, name: WebhookName) -> Delivery:
        """Post a test event, once, and return the outcome."""
        parcel = await self.deliveries.parcel_for_test(current.get().account, name.id)
        posted = await self.poster.post(parcel.url, parcel.occurrence, parcel.body, parcel.secrets)
        return Delivery(
            id=parcel.occurrence,
            type="test",
            state="succeeded" if posted.succeeded else "failed",
            attempts=[posted.attempt],
            created_at=posted.attempt.at,
        )

    @answers(LIST_DELIVERIES)
    async def list_deliveries(self, request: DeliveriesOfWebhook) -> Deliveries:
        return await self.deliveries.newest(current.get().account, request)

    @answers(REDELIVER)
    async def redeliver(self, name: DeliveryName) -> Delivery:
        delivery = await self.deliveries.redeliver(current.get().account, name)
        self.sender.sending.wake()
        return delivery

    @answers(NOTE)
    async def note(self, request: Occurrences) -> OccurrencesStored:
        await self.deliveries.store(request.occurrences)
        self.sender.sending.wake()
        return OccurrencesStored()
