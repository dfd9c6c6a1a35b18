"""The process of the realtime service: `python -m realtime`."""

import asyncio
import contextlib
import gc
import secrets
import signal
import socket
from collections.abc import Iterator
from typing import Any

import structlog
import uvicorn
import uvloop

from common import service
from common.background import lasting
from realtime.application import Application
from realtime.heartbeat import Heartbeat
from realtime.origins import Origins
from realtime.settings import RealtimeSettings
from realtime.slots import Slots
from realtime.sockets import Sockets
from realtime.websocket import MAX_FRAME_BYTES, Wire

log = structlog.get_logger()

# From SIGTERM until clients are disconnected: three health checks of the edge, so that it
# sends them to another replica and not back here.
UNREADY_S = 1.6
# The time over which clients are disconnected.
DRAIN_S = 2.0
# The kernel's buffer for a client that does not read; Linux would let it grow to megabytes,
# and doubles this for its own accounting.
SEND_BUFFER_BYTES = 128 * 1024
BACKLOG = 1024
# Longer than the edge keeps an idle connection.
KEEP_ALIVE_S = 75
SHUTDOWN_TIMEOUT_S = 5
# Python's cycle collector may scan young objects often, but never all objects by itself: with ten
# thousand connections that stops everything for seconds. `Sockets.keep_collecting` does it when it
# pays.
GC_THRESHOLDS = (10_000, 10, 1_000_000_000)


async def main() -> None:
    gc.set_threshold(*GC_THRESHOLDS)
    settings = RealtimeSettings.from_environment()
    async with service.connect("realtime", settings) as realtime:
        slots = Slots(realtime.bus, secrets.token_hex(8))
        origins = Origins(settings.public_url, settings.allowed_origins)
        sockets = Sockets(realtime.bus, slots, origins)
        heartbeat = Heartbeat(realtime.bus, slots, sockets.report_gap)
        await slots.start()
        await realtime.serve(sockets.keys)
        realtime.instruments.add(sockets.families)
        await realtime.answer_discovery()
        async with lasting(
            heartbeat.beat(),
            slots.keep_renewing(),
            sockets.keys.keep_checking(),
            sockets.keep_collecting(),
        ) as ended:
            application = Application(sockets, heartbeat)
            await serve(application, settings.http_host, settings.http_port, ended)


async def serve(application: Application, host: str, port: int, ended: asyncio.Future[Any]) -> None:
    """Serve until SIGTERM, or until background work ends unexpectedly."""
    server = uvicorn.Server(
        uvicorn.Config(
            application,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            lifespan="off",
            ws=Wire,
            ws_max_size=MAX_FRAME_BYTES,
            # A compressor per connection would cost more than the rest of it.
            ws_per_message_deflate=False,
            ws_ping_interval=None,  # Engine.IO has its own
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=SHUTDOWN_TIMEOUT_S,
        )
    )
    # uvicorn would stop at the signal itself; here it has to wait for the edge.
    server.capture_signals = _ignore_signals  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with _listen(host, port) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        log.info("ready", port=port)
        await asyncio.wait([serving, stopping, ended], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            application.stopping = True
            log.info("draining", clients=len(application.sockets.clients))
            await asyncio.sleep(UNREADY_S)
            await application.sockets.drain(DRAIN_S)
            server.should_exit = True
        stopping.cancel()
        await serving


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=BACKLOG)
    # Accepted connections inherit it.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _ignore_signals() -> Iterator[None]:
    yield


if __name__ == "__main__":
    uvloop.run(main())
