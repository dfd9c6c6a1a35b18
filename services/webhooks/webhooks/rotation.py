"""Re-encryption of webhooks' secrets: `python -m webhooks.rotation`; see `gateway.rotation`."""

import asyncio
import sys

from common import logs, postgres
from common.encryption import Encryption
from common.rotation import Column, report, rotate
from webhooks.sealing import Sealing
from webhooks.settings import WebhookSettings

COLUMNS = (Column("webhooks", "id", "secret"), Column("webhooks", "id", "former_secret"))


async def main() -> int:
    settings = WebhookSettings.from_environment()
    encryption = Encryption.from_settings(settings.encryption_keys)
    async with postgres.connect(settings.database_url, "webhooks", "webhooks") as database:
        await Sealing(encryption).seal_stored(database)
        return report(await rotate(database, encryption, COLUMNS))


if __name__ == "__main__":
    logs.configure("webhooks")
    sys.exit(asyncio.run(main()))
