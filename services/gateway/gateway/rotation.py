"""Re-encryption of Hub tokens and second factors: `python -m gateway.rotation`.

Run it once every replica has the new key as the first of `ENCRYPTION_KEYS`. After it reports
nothing that cannot be decrypted, the old key can be dropped.
"""

import asyncio
import sys

from common import logs, postgres
from common.rotation import Column, report, rotate
from gateway.settings import GatewaySettings

COLUMNS = (
    Column("hub_tokens", "account_id", "token"),
    Column("second_factors", "account_id", "secret"),
)


async def main() -> int:
    settings = GatewaySettings.from_environment()
    async with postgres.connect(settings.database_url, "gateway", "gateway") as database:
        return report(await rotate(database, settings.encryption(), COLUMNS))


if __name__ == "__main__":
    logs.configure("gateway")
    sys.exit(asyncio.run(main()))
