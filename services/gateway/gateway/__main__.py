"""The gateway: HTTP on one side, the bus and its own accounts on the other."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn
import uvloop

from common import postgres, service
from common.background import lasting
from common.errors import Unavailable
from gateway import housekeeping, routes
from gateway.accounts import Accounts, policies
from gateway.app import Gateway
from gateway.authentication import Authentication
from gateway.capacity import Capacity
from gateway.deletion import Deletion
from gateway.door import Guards
from gateway.generations import GenerationLog
from gateway.hub_tokens import HubTokens
from gateway.idempotency import Idempotency
from gateway.keyring import KeyRing
from gateway.limits import Limits
from gateway.passwords import Passwords
from gateway.recovery import Recovery
from gateway.second_factor import SecondFactor
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings
from gateway.usage import UsageCounts
from gateway.windows import Policy

log = structlog.get_logger()

# From SIGTERM to closing the door: three health checks of the edge, so that it has stopped
# sending new requests here.
DRAIN_S = 1.6
# Requests under way get this long to finish.
GRACE_S = 20


async def main() -> None:
    settings = GatewaySettings.from_environment()
    async with (
        service.connect("gateway", settings) as gateway_service,
        postgres.connect(settings.database_url, "gateway", "gateway", timeout_s=2.0) as database,
    ):
        connection = gateway_service.bus

        async def check_bus() -> None:
            if not connection.available:
                raise Unavailable("the bus is unavailable")

        limits = Limits(
            connection,
            [
                Policy("api", settings.rate_api),
                Policy("generate", settings.rate_generate, costly=True, shared_with="api"),
                Policy("register", settings.rate_register),
                Policy("reset", settings.rate_reset),
                *policies(settings.rate_login),
            ],
            replicas=settings.replicas,
        )
        await limits.start()
        passwords = Passwords()
        encryption = settings.encryption()
        accounts = Accounts(
            database,
            passwords,
            limits,
            SecondFactor(database, encryption, needs_confirmation=bool(settings.smtp_url)),
        )
        sessions = Sessions(database, connection)
        deletion = Deletion(database, connection, accounts, sessions)
        recovery = Recovery(
            database,
            connection,
            passwords,
            sessions,
            smtp_url=settings.smtp_url,
            smtp_from=settings.smtp_from,
            public_url=settings.public_url,
        )
        guards = Guards(
            accounts=accounts,
            authentication=Authentication(database),
            sessions=sessions,
            deletion=deletion,
            recovery=recovery,
            limits=limits,
            idempotency=Idempotency(database),
            capacity=Capacity(settings.max_requests, settings.max_requests_per_account),
            generations=GenerationLog(database),
            usage=UsageCounts(database),
        )
        keyring = KeyRing(database, connection)
        hub_tokens = HubTokens(database, connection, encryption)
        for handlers in (guards.authentication, hub_tokens, deletion):
            await gateway_service.serve(handlers)
        await gateway_service.answer_discovery()
        gateway = Gateway(
            routes.endpoints(connection, guards, keyring, hub_tokens),
            guards,
            keyring,
            settings.public_url,
            checks={"bus": check_bus, "database": database.ping},
            allowed_origins=settings.allowed_origins,
        )
        gateway_service.instruments.add(gateway.families, limits.families, database.families)
        async with lasting(
            guards.authentication.keep_renewing(),
            guards.authentication.keep_writing_last_use(),
            guards.usage.keep_flushing(),
            guards.generations.keep_flushing(),
            housekeeping.keep_tidy(
                database,
                audit_days=settings.audit_retention_days,
                key_days=settings.key_retention_days,
            ),
            deletion.keep_publishing(),
            recovery.keep_mailing(),
        ) as ended:
            await serve(gateway, settings.http_host, settings.http_port, ended)


async def serve(gateway: Gateway, host: str, port: int, ended: asyncio.Future[Any]) -> None:
    """Serve until SIGTERM, or until background work has ended.

    Then wait until the edge sends nothing new, and finish the open requests.
    """
    server = uvicorn.Server(
        uvicorn.Config(
            gateway,
            host=host,
            port=port,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,  # `audit` reads them, from the edge alone
            lifespan="off",
            timeout_keep_alive=75,  # longer than the edge keeps an idle connection
            timeout_graceful_shutdown=GRACE_S,
        )
    )
    # uvicorn would stop at the signal itself; here it has to wait for the edge.
    server.capture_signals = _no_capture  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    serving = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    service.settle()
    log.info("ready", port=port)
    await asyncio.wait([serving, stopping, ended], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        gateway.draining.set()
        log.info("draining")
        await asyncio.sleep(DRAIN_S)
        server.should_exit = True
    stopping.cancel()
    await serving


@contextlib.contextmanager
def _no_capture() -> Iterator[None]:
    yield


if __name__ == "__main__":
    uvloop.run(main())
