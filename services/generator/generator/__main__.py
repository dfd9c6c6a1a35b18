"""The generator as a service on the bus."""

import asyncio

from common import service
from generator.handlers import Handlers
from generator.hub import Hub
from generator.settings import Settings
from generator.shared import SharedSnapshots


async def main() -> None:
    settings = Settings.from_environment()
    token = settings.hf_token.get_secret_value() if settings.hf_token else None
    hub = Hub(settings.hf_endpoint, token)
    try:
        async with service.connect("generator", settings) as generator:
            opened = sorted(settings.shared_models)
            shared = SharedSnapshots(generator.bus, f"{settings.hf_endpoint} {token} {opened}")
            handlers = Handlers(hub, settings, generator.bus, shared)
            await generator.serve(handlers)
            await generator.answer_discovery()
            await generator.run_until_stopped()
    finally:
        await hub.close()


if __name__ == "__main__":
    asyncio.run(main())
