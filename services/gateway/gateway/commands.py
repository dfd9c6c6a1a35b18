"""Shared parts of the commands `python -m gateway.recovery` and `gateway.second_factor`."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NoReturn

from common import logs, postgres
from common.postgres import Connection
from gateway.settings import GatewaySettings


@asynccontextmanager
async def open_account(
    settings: GatewaySettings, email: str
) -> AsyncIterator[tuple[Connection, str | None]]:
    """Open a transaction; yield it with the id of the e-mail address's account, if any."""
    async with (
        postgres.connect(settings.database_url, "gateway", "gateway") as database,
        database.connection() as connection,
    ):
        cursor = await connection.execute(
            "select id from accounts where lower(email) = lower(%s)", [email]
        )
        row = await cursor.fetchone()
        yield connection, row[0] if row else None


def run(module: str, command: Callable[[str], Awaitable[int]]) -> NoReturn:
    """Run a command with the address it was given, and exit with its status."""
    if len(sys.argv) != 2:
        sys.exit(f"usage: python -m {module} EMAIL")

    async def main() -> int:
        return await command(sys.argv[1])

    # Log lines go to standard error: standard output is the command's alone.
    logs.configure("gateway")
    sys.exit(asyncio.run(main()))
