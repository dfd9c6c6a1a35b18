"""A receiver of webhooks, and an account whose events are posted to it."""

import asyncio
import secrets
from dataclasses import dataclass, field
from ipaddress import ip_network

from aiohttp import web
from cryptography.fernet import Fernet

from common.contracts.webhooks import NewWebhook, Occurrence, Webhook
from common.encryption import Encryption
from common.postgres import Database
from webhooks.addresses import Addresses
from webhooks.deliveries import DeliveryStore
from webhooks.registry import WebhookStore
from webhooks.sealing import Sealing

KEY = Fernet.generate_key().decode()
SEALING = Sealing(Encryption([KEY]))
LOOPBACK = Addresses((ip_network("127.0.0.0/8"),))


@dataclass
class Received:
    headers: dict[str, str]
    body: str


@dataclass
class Receiver:
    """An HTTP server that records its posts, and gives the configured answers."""

    url: str = ""
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    posts: list[Received] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def take(self, request: web.Request) -> web.Response:
        body = await request.text()
        async with self.arrived:
            self.posts.append(Received({k.lower(): v for k, v in request.headers.items()}, body))
            self.arrived.notify_all()
        return web.Response(status=self.status, headers=self.headers)

    async def wait_for(self, count: int) -> list[Received]:
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.posts) >= count)
        return self.posts


@dataclass
class Someone:
    """An account with webhooks, and methods that cause its events."""

    registry: WebhookStore
    deliveries: DeliveryStore
    account: str = field(default_factory=lambda: f"acc_{secrets.token_hex(6)}")

    async def add(self, url: str, *events: str) -> Webhook:
        new = NewWebhook.model_validate({"url": url, "events": list(events or ["alert.raised"])})
        return await self.registry.add(self.account, new)

    async def happen(self, event: str = "alert.raised", id: str = "", **data: object) -> Occurrence:
        occurrence = Occurrence.model_validate(
            {
                "id": id or f"msg_{secrets.token_hex(6)}", "account": self.account,
                "type": event, "at": "2026-01-02T03:04:05Z", "data": data,
            }
        )  # fmt: skip
        await self.deliveries.store([occurrence])
        return occurrence


def new_someone(database: Database, *, max_webhooks: int = 3, max_waiting: int = 10) -> Someone:
    return Someone(
        WebhookStore(database, LOOPBACK, SEALING, max_webhooks),
        DeliveryStore(database, SEALING, max_waiting),
    )
