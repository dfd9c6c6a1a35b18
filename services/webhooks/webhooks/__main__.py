"""The webhooks service: `python -m webhooks`."""

from datetime import timedelta

import uvloop

from common import logs, postgres, service
from common.background import lasting
from common.encryption import Encryption
from webhooks.addresses import Addresses
from webhooks.deliveries import DeliveryStore
from webhooks.erasure import Erasure
from webhooks.handlers import Handlers
from webhooks.post import Poster
from webhooks.registry import WebhookStore
from webhooks.sealing import Sealing
from webhooks.sender import Sender
from webhooks.settings import WebhookSettings


async def main() -> None:
    settings = WebhookSettings.from_environment()
    logs.configure("webhooks", settings.log_level)
    addresses = Addresses(settings.webhook_networks)
    async with (
        postgres.connect(settings.database_url, "webhooks", "webhooks") as database,
        Poster(addresses) as poster,
    ):
        sealing = Sealing(Encryption.from_settings(settings.encryption_keys))
        await sealing.seal_stored(database)
        deliveries = DeliveryStore(database, sealing, settings.max_waiting_deliveries)
        webhooks = WebhookStore(database, addresses, sealing, settings.max_webhooks)
        sender = Sender(deliveries, poster, timedelta(days=settings.webhook_log_days))
        async with (
            lasting(sender.run()) as ended,
            service.connect("webhooks", settings) as running,
        ):
            await running.serve(Handlers(webhooks, deliveries, poster, sender))
            await running.serve(Erasure(database, running.bus))
            running.instruments.add(database.families)
            await running.answer_discovery()
            await running.run_until_stopped(ended)
        await sender.finish()


if __name__ == "__main__":
    uvloop.run(main())
