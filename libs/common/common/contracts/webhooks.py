"""Webhooks: URLs to which the events of an account's models are posted."""

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from common.contracts import Input, Message, Rpc

EventType = Literal[
    "alert.raised", "alert.recovered", "benchmark.finished", "verification.finished"
]
Url = Annotated[str, Field(min_length=1, max_length=2000)]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=4)]
URL = "Address that events are posted to: https, and reachable from the internet."
EVENTS = "The kinds of events to post."
ENABLED = "Whether events are posted; those that happen while it is false never are."


class NewWebhook(Input):
    """A URL, and the kinds of events to post to it."""

    url: Url = Field(description=URL, examples=["https://example.com/hooks/lilypad"])
    events: EventTypes = Field(description=EVENTS, examples=[["alert.raised"]])


class WebhookChange(Input):
    """Fields of a webhook to change; omitted fields stay as they are."""

    url: Url | None = Field(None, description=URL, examples=["https://example.com/hooks/lilypad"])
    events: EventTypes | None = Field(None, description=EVENTS, examples=[["alert.raised"]])
    enabled: bool | None = Field(None, description=ENABLED)


class Webhook(Message):
    """A webhook; only the answer that creates it contains its secret."""

    id: str = Field(description="The webhook's id.")
    url: str = Field(description=URL)
    events: list[EventType] = Field(description=EVENTS)
    enabled: bool = Field(True, description=ENABLED)
    disabled_reason: str | None = Field(
        None, description="Why the service turned it off, if it did; set `enabled` to go on."
    )
    secret: str | None = Field(
        None, description="Secret that signs the events (`whsec_…`); shown once."
    )
    created_at: datetime = Field(description="Time at which it was created.")


class Webhooks(Message):
    """The account's webhooks, oldest first."""

    webhooks: list[Webhook] = Field(description="The webhooks, oldest first.")


class Attempt(Message):
    """One attempt to deliver an event."""

    at: datetime = Field(description="Time at which it began.")
    status: int | None = Field(None, description="The HTTP status of the answer, if one came.")
    error: str | None = Field(None, description="Why it failed; null when it succeeded.")
    seconds: float = Field(description="Duration of the attempt.", json_schema_extra={"unit": "s"})


class Delivery(Message):
    """An event to deliver to one webhook, with its attempts."""

    id: str = Field(description="The delivery's id; the same in every attempt's `webhook-id`.")
    type: str = Field(description="The kind of event.")
    state: Literal["pending", "succeeded", "failed"] = Field(
        description="`failed` once the last attempt has failed."
    )
    attempts: list[Attempt] = Field(description="Oldest first; at most the last twenty.")
    next_attempt_at: datetime | None = Field(None, description="Time of the next attempt.")
    created_at: datetime = Field(description="Time of the event.")


class DeliveriesRequest(Message):
    """Request for a page of deliveries, newest first; `before` is the id of the last one seen."""

    state: Literal["pending", "succeeded", "failed"] | None = Field(
        None, description="Only deliveries in this state."
    )
    before: str | None = Field(
        None,
        description="The id of the last delivery on the previous page.",
        examples=["msg_alert_4f1d0c2a9b8e7d6c5b4a3928_raised"],
    )
    limit: Annotated[int, Field(ge=1, le=100)] = Field(50, description="Deliveries per page.")


class Deliveries(Message):
    """The deliveries of one webhook."""

    deliveries: list[Delivery] = Field(description="The deliveries, newest first.")


class WebhooksRequest(Message):
    """Request for the account's webhooks."""


class WebhookName(Message):
    id: str


class WebhookChangeRequest(WebhookName):
    """Request to change a webhook; `changes` holds the sent fields by public name."""

    changes: dict[str, Any]


class DeliveriesOfWebhook(WebhookName, DeliveriesRequest):
    """Request for the deliveries of one webhook."""


class DeliveryName(WebhookName):
    delivery: str


class WebhookRemoved(Message):
    """Confirmation that a webhook was deleted."""


class Occurrence(Message):
    """An event of an account's model; a second one with the same id is ignored."""

    id: str
    account: str
    type: EventType
    at: datetime
    data: dict[str, Any]


class Occurrences(Message):
    occurrences: Annotated[list[Occurrence], Field(max_length=100)]


class OccurrencesStored(Message):
    """Confirmation that an event is stored, with a delivery for each webhook that wants it."""


ADD_WEBHOOK = Rpc("rpc.webhooks.add", NewWebhook, Webhook, timeout=8.0)
LIST_WEBHOOKS = Rpc("rpc.webhooks.list", WebhooksRequest, Webhooks, timeout=1.8, repeatable=True)
CHANGE_WEBHOOK = Rpc("rpc.webhooks.change", WebhookChangeRequest, Webhook, timeout=8.0)
REMOVE_WEBHOOK = Rpc("rpc.webhooks.remove", WebhookName, WebhookRemoved, timeout=1.8)
ROTATE_SECRET = Rpc("rpc.webhooks.rotate_secret", WebhookName, Webhook, timeout=1.8)
TEST_WEBHOOK = Rpc("rpc.webhooks.test", WebhookName, Delivery, timeout=15.0)
LIST_DELIVERIES = Rpc(
    "rpc.webhooks.deliveries", DeliveriesOfWebhook, Deliveries, timeout=1.8, repeatable=True
)
REDELIVER = Rpc("rpc.webhooks.redeliver", DeliveryName, Delivery, timeout=1.8)

# Sent by the services where the events happen, from their own rows, until confirmed.
NOTE = Rpc("rpc.webhooks.note", Occurrences, OccurrencesStored)
