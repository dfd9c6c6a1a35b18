"""The open sockets of this process, from their first packet to the drain."""

import asyncio
import contextlib
import functools
import gc
import random
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import structlog
from socketio.exceptions import ConnectionRefusedError as Refused

from common.bus import NatsBus
from common.context import Context, current
from common.errors import INTERNAL, InvalidRequest, ServiceError, Unauthenticated, Unavailable
from common.instruments import MetricFamily
from realtime.admission import Admission
from realtime.client import Client, Pump
from realtime.engine import Engine, connection_ids
from realtime.keys import Keys
from realtime.origins import Origins
from realtime.replay import Replay
from realtime.slots import Slots
from realtime.subscriptions import Subscriptions
from realtime.topics import Topics
from realtime.update import Update

log = structlog.get_logger()

# A connection must send a valid token within this time, or it would stay for as long as it
# answers pings.
TOKEN_TIMEOUT_S = 10.0
# How long a client keeps its connection after a refusal, to read it.
REFUSAL_S = 1.0
# The pause before an unknown event's error, so that its acknowledgement goes first.
ACKNOWLEDGED_S = 0.05
# Time between two checks for garbage of closed connections, and the number that triggers a
# collection.
COLLECT_INTERVAL_S, MAX_CLOSED = 10.0, 1_000
# How long a drain waits for connections that it has closed.
DRAIN_TIMEOUT_S = 2.0


class Sockets:
    def __init__(self, bus: NatsBus, slots: Slots, origins: Origins) -> None:
        self.slots = slots
        self.topics = Topics(bus)
        self.pump = Pump()
        self.clients: dict[str, Client] = {}
        self.draining = False
        self.keys = Keys(bus, self.clients)
        self.admission = Admission(bus, slots, self.topics, self.keys)
        subscriptions = Subscriptions(self.topics, Replay(bus))
        self.events = {
            "subscribe_metrics": subscriptions.subscribe,
            "unsubscribe_metrics": subscriptions.unsubscribe,
        }
        self.engine = Engine(self, origins)
        self._closed = 0
        self._replaced = 0  # in mailboxes of clients that have left

    def families(self) -> Iterator[MetricFamily]:
        """Yield the metrics of connections, of waiting updates and of replaced ones."""
        clients = list(self.clients.values())
        waiting = {(): sum(client.mailbox.size_bytes for client in clients)}
        yield MetricFamily("gauge", "ws_connections", "Connections", (), {(): len(clients)})
        yield MetricFamily(
            "gauge", "ws_send_queue_bytes", "Updates that wait for clients", (), waiting
        )
        replaced = self._replaced + sum(client.mailbox.replaced for client in clients)
        yield MetricFamily(
            "counter", "ws_dropped", "Updates replaced by newer ones", (), {(): replaced}
        )

    async def open(self, id: str, socket: Any) -> None:
        client = Client(id, socket, self.pump)
        self.clients[id] = client
        self._expect_token(client)

    def _expect_token(self, client: Client) -> None:
        def expire() -> None:
            if not client.account:
                client.dismiss(
                    Unauthenticated(
                        f"no valid token came within {TOKEN_TIMEOUT_S:g} s; connect again with one"
                    )
                )

        asyncio.get_running_loop().call_later(TOKEN_TIMEOUT_S, expire)

    async def close(self, id: str) -> None:
        client = self.clients.pop(id, None)
        if client is not None:
            client.closed = True
            self._closed += 1
            self._replaced += client.mailbox.replaced
            await self.admission.leave(client)

    async def connect(self, id: str, auth: Any) -> None:
        client = self.clients[id]
        try:
            await self.admission.admit(client, auth)
        except Unavailable as error:
            # Socket.IO's clients give up on a refusal, and reconnect after a lost connection.
            client.dismiss(error, reconnect=True)
            raise _refusal(error) from None
        except ServiceError as error:
            await self.admission.leave(client)
            asyncio.get_running_loop().call_later(REFUSAL_S, client.dismiss, error)
            raise _refusal(error) from None
        except Exception:
            log.exception("admission failed")
            raise _refusal(ServiceError(INTERNAL)) from None

    async def disconnect(self, id: str) -> None:
        client = self.clients.get(id)
        if client is not None:
            await self.admission.leave(client)
            self._expect_token(client)

    def send(self, id: str, update: Update) -> None:
        if (client := self.clients.get(id)) is not None:
            client.deliver_guaranteed(update)

    async def answer(self, id: str, data: list[Any]) -> dict[str, Any]:
        client = self.clients.get(id)
        if client is None or not client.account:
            return _failure(Unauthenticated("not connected; connect with a token first"))
        name, arguments = data[0], data[1:]
        handler = self.events.get(name) if isinstance(name, str) else None
        if handler is None:
            error = InvalidRequest(f"unknown event; send one of: {', '.join(self.events)}")
            asyncio.get_running_loop().call_later(ACKNOWLEDGED_S, client.dismiss, error)
            return _failure(error)
        with _acting_for(client.account):
            try:
                async with client.requests:
                    return await handler(client, arguments[0] if arguments else {})
            except ServiceError as error:
                return _failure(error)
            except Exception:
                log.exception("socket event failed", name=name)
                return _failure(ServiceError(INTERNAL))

    def refuse(self, query: bytes, error: ServiceError) -> None:
        """Dismiss the client named in a request's query, if any."""
        for id in connection_ids(query):
            if (client := self.clients.get(id)) is not None:
                client.dismiss(error)

    def report_gap(self, since: datetime) -> None:
        """Notify every client that events were lost, so that it subscribes again."""
        self.topics.lose()
        notice = Update("gap", {"since": since.isoformat().replace("+00:00", "Z")})
        for client in self.clients.values():
            if client.account:
                client.gap = since
                # Updates that wait carry cursors from before the gap, so they go first.
                client.deliver_guaranteed(notice, None)
        self.keys.check_soon()
        self.pump.run(self.slots.renew())  # the bus may have forgotten the slots' holders

    async def keep_collecting(self) -> None:
        """Collect garbage whenever enough connections have closed, until cancelled."""
        while True:
            await asyncio.sleep(COLLECT_INTERVAL_S)
            if self._closed > max(MAX_CLOSED, len(self.clients) // 2):
                self._closed = 0
                gc.collect()

    async def drain(self, spread_s: float) -> None:
        """Disconnect every client, at random moments so that they do not reconnect at once."""
        self.draining = True
        reason = Unavailable("this server is stopping; connect again", retry_after=1)
        clients = list(self.clients.values())
        for client in clients:
            client.deliver_guaranteed(Update("server_draining", {"message": reason.message}))
        loop = asyncio.get_running_loop()
        for client in clients:
            leave = functools.partial(client.dismiss, reason, reconnect=True)
            loop.call_later(random.uniform(0, spread_s), leave)  # noqa: S311  (only to spread)
        end_s = time.monotonic() + spread_s + DRAIN_TIMEOUT_S
        while self.clients and time.monotonic() < end_s:  # noqa: ASYNC110  (dozens leave at a time)
            await asyncio.sleep(0.05)


@contextlib.contextmanager
def _acting_for(account: str) -> Iterator[None]:
    reset = current.set(Context(account=account))
    try:
        yield
    finally:
        current.reset(reset)


def _failure(error: ServiceError) -> dict[str, Any]:
    answer = {"status": "error", "code": error.code, "message": error.message}
    return {**answer, "details": error.details} if error.details else answer


def _refusal(error: ServiceError) -> Refused:
    data = {"code": error.code, "message": error.message}
    return Refused(error.message, data)
