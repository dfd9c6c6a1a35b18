"""The gateway: HTTP on one side, the bus and its own accounts on the other."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator

import structlog
import uvicorn
import uvloop

from common import postgres, service
from common.contracts.access import AUTHENTICATE, KEY_REVOKED
from common.errors import Unavailable
from gateway import accounts, housekeeping
from gateway.accounts import Accounts
from gateway.app import Gateway
from gateway.authentication import Authentication
from gateway.capacity import Capacity
from gateway.counters import Policy
from gateway.endpoint import Guards
from gateway.idempotency import Idempotency
from gateway.keyring import KeyRing
from gateway.limits import Limits
from gateway.passwords import Passwords
from gateway.routes import accounts as account_routes
from gateway.routes import benchmarks, generations, monitoring
from gateway.sessions import Sessions
from gateway.settings import GatewaySettings

log = structlog.get_logger()

# From SIGTERM to closing the door, in seconds: three health checks of the
# edge, so that it has stopped sending new requests here.
LEAVING = 1.6
# What is under way gets this long to end, in seconds.
GRACE = 20


async def main() -> None:
    settings = GatewaySettings.from_environment()
    async with (
        service.connect("gateway", settings) as gateway_service,
        postgres.connect(settings.database_url, "gateway", "gateway", patience=2.0) as database,
    ):
        connection = gateway_service.bus

        async def bus_is_there() -> None:
            if not connection.is_there:
                raise Unavailable("the bus is away")

        limits = Limits(
            connection,
            [
                Policy("api", settings.rate_api),
                Policy("generate", settings.rate_generate, costly=True),
                Policy("register", settings.rate_register),
                *accounts.policies(settings.rate_login),
            ],
            replicas=settings.replicas,
        )
        await limits.start()
        guards = Guards(
            accounts=Accounts(database, Passwords(), limits),
            authentication=Authentication(database),
            sessions=Sessions(database, connection),
            limits=limits,
            idempotency=Idempotency(database),
            capacity=Capacity(settings.most_at_once, settings.most_at_once_per_account),
        )
        keyring = KeyRing(database, connection)
        await gateway_service.answer(AUTHENTICATE, guards.authentication.check)
        await gateway_service.listen(KEY_REVOKED, guards.authentication.forget, shared=False)
        await gateway_service.answer_discovery()
        gateway = Gateway(
            [
                *generations.endpoints(connection),
                *benchmarks.endpoints(connection),
                *monitoring.endpoints(connection),
                *account_routes.endpoints(guards.accounts, keyring, guards.sessions),
            ],
            guards,
            keyring,
            settings.public_url,
            checks={"bus": bus_is_there, "database": database.ping},
        )
        background = [
            asyncio.create_task(guards.authentication.keep_writing_last_use()),
            asyncio.create_task(housekeeping.keep_tidy(database)),
        ]
        await serve(gateway, settings.http_host, settings.http_port)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)


async def serve(gateway: Gateway, host: str, port: int) -> None:
    """Serve until SIGTERM; then first let the edge turn away, then finish what is under way."""
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
            timeout_graceful_shutdown=GRACE,
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
    await asyncio.wait([serving, stopping], return_when=asyncio.FIRST_COMPLETED)
    if not serving.done():
        gateway.draining = True
        log.info("draining")
        await asyncio.sleep(LEAVING)
        server.should_exit = True
    stopping.cancel()
    await serving


@contextlib.contextmanager
def _no_capture() -> Iterator[None]:
    yield


if __name__ == "__main__":
    uvloop.run(main())
