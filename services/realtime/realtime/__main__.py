"""The realtime service: Socket.IO on one side, events of the bus on the other."""

import asyncio
import contextlib
import gc
import secrets
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn
import uvloop

from common import service
from common.contracts.access import KEY_REVOKED
from realtime.door import Door, Pulse
from realtime.settings import RealtimeSettings
from realtime.slots import Slots
from realtime.sockets import Sockets
from realtime.websocket import LARGEST_FRAME, Wire

log = structlog.get_logger()

# From SIGTERM until clients are sent away, in seconds: three health checks of
# the edge, so that it sends them to another replica and not back here.
LEAVING = 1.6
# Over how many seconds clients are sent away.
SPREAD = 2.0
# Bytes that the kernel holds of what a client does not read; Linux would let
# that grow to megabytes, and doubles this for its own accounting.
SEND_BUFFER = 128 * 1024
BACKLOG = 1024
# Python's collector of cycles may look at what is young as often as it likes,
# and never by itself at everything: with ten thousand connections that holds
# all of them up for seconds. `Sockets.tidy` does it when it pays.
COLLECT = (10_000, 10, 1_000_000_000)


async def main() -> None:
    gc.set_threshold(*COLLECT)
    settings = RealtimeSettings.from_environment()
    owner = secrets.token_hex(8)
    async with service.connect("realtime", settings) as realtime:
        bus = realtime.bus
        slots = Slots(bus, owner)
        sockets = Sockets(bus, slots, settings.public_url)
        pulse = Pulse(bus, slots, sockets.tell_of_gap)
        await slots.start()
        await realtime.listen(KEY_REVOKED, sockets.revoke, shared=False)
        await realtime.answer_discovery()
        works = [pulse.beat(), slots.keep(), sockets.recheck(), sockets.tidy()]
        background = [asyncio.create_task(work) for work in works]
        try:
            await serve(Door(sockets, pulse), settings.http_host, settings.http_port, background)
        finally:
            for task in background:
                task.cancel()


async def serve(door: Door, host: str, port: int, background: list[asyncio.Task[None]]) -> None:
    """Serve until SIGTERM, or until something in the background fails."""
    server = uvicorn.Server(
        uvicorn.Config(
            door,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            date_header=False,
            lifespan="off",
            ws=Wire,
            ws_max_size=LARGEST_FRAME,
            # A compressor per connection would cost more than all the rest of it.
            ws_per_message_deflate=False,
            ws_ping_interval=None,  # Engine.IO has its own
            timeout_keep_alive=75,  # longer than the edge keeps an idle connection
            timeout_graceful_shutdown=5,
        )
    )
    # uvicorn would stop at the signal itself; here it has to wait for the edge.
    server.capture_signals = _no_capture  # type: ignore[method-assign]
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    with _listen(host, port) as listener:
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        stopping = asyncio.create_task(stop.wait())
        log.info("ready", port=port)
        await asyncio.wait([serving, stopping, *background], return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            door.leaving = True
            log.info("draining", clients=len(door.sockets.clients))
            await asyncio.sleep(LEAVING)
            await door.sockets.drain(SPREAD)
            server.should_exit = True
        stopping.cancel()
        await serving
    for task in background:
        if task.done():
            task.result()  # ends the process with what went wrong


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.create_server((host, port), backlog=BACKLOG)
    # Taken over by every connection that is accepted.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    listener.setblocking(False)
    return listener


@contextlib.contextmanager
def _no_capture() -> Iterator[None]:
    yield


if __name__ == "__main__":
    uvloop.run(main())
