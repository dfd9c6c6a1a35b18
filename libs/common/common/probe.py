"""Liveness, readiness and metrics over HTTP, on a port that callers do not reach.

`/livez` answers while the event loop turns; `/readyz` also needs the bus, and what else the
service names. A dependency never fails liveness: a restart would not bring it back. `/metrics`
is what the service has counted, in Prometheus's text format.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from http import HTTPStatus

from common.bus import NatsBus
from common.instruments import CONTENT_TYPE, Instruments

# A probe sends one short line and a few headers.
MAX_REQUEST_BYTES = 8192
READ_TIMEOUT_S = 5.0


@asynccontextmanager
async def serve(
    port: int | None,
    bus: NatsBus,
    instruments: Instruments | None = None,
    needs: Collection[Callable[[], bool]] = (),
) -> AsyncIterator[None]:
    """Answer probes on `port` while the block runs; do nothing if it is None.

    `needs` say whether what the service cannot do without is there.
    """
    if port is None:
        yield
        return
    render = (instruments or Instruments()).renderer()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            async with asyncio.timeout(READ_TIMEOUT_S):
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1]
                body = render() if path == b"/metrics" else b""
                status = HTTPStatus.OK if body else _status(path, bus, needs)
                writer.write(
                    f"HTTP/1.1 {status.value} {status.phrase}\r\n"
                    f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n"
                    "Connection: close\r\n\r\n".encode()
                )
                writer.write(body)
                await writer.drain()
        writer.close()

    # Every interface: probes come from the node to the pod's own address.
    server = await asyncio.start_server(answer, "0.0.0.0", port, limit=MAX_REQUEST_BYTES)  # noqa: S104
    async with server:
        yield


def _status(path: bytes, bus: NatsBus, needs: Collection[Callable[[], bool]]) -> HTTPStatus:
    if path == b"/livez":
        return HTTPStatus.OK
    if path == b"/readyz":
        ready = bus.available and all(is_there() for is_there in needs)
        return HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return HTTPStatus.NOT_FOUND
