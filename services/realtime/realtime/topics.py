"""Subscriptions of this replica on the bus, to the models and accounts of its clients.

A replica subscribes to `event.metrics.recorded.<account>.<model>` for the first client that
follows the model, and unsubscribes with the last one, so it decodes no event that none of
its clients wants. An event is decoded once, encoded once per selection of metrics, and
written to every client.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable

import nats.errors
import structlog
from nats.aio.subscription import Subscription

from common.background import Background
from common.bus import NatsBus, token
from common.contracts.alerts import ALERT_RAISED, AlertEvent
from common.contracts.benchmarking import PROGRESSED, BenchmarkProgress
from common.contracts.history import METRICS_RECORDED, MetricUpdate
from common.errors import Unavailable
from realtime import update as updates
from realtime.topic import Moment, Receiver, SeenAlerts, Subscriber, Topic

log = structlog.get_logger()

# How long the bus may take to confirm a subscription.
CONFIRM_TIMEOUT_S = 2
# The errors of a lost bus connection; uvloop raises RuntimeError for one just lost.
LOST = (nats.errors.Error, OSError, RuntimeError)


class Account:
    """The clients of an account, which receive its alerts and benchmarks."""

    def __init__(self) -> None:
        self.clients: dict[Receiver, SeenAlerts] = {}
        self.listening: asyncio.Task[list[Subscription]] | None = None

    async def publish_alert(self, body: AlertEvent, topic: Topic | None) -> None:
        update = updates.alert(body)
        moment = Moment(update, alert=body)
        for client, seen in list(self.clients.items()):
            if topic is not None and client in topic.subscribers:
                topic.send_alert(client, seen, moment)
            elif seen.add(body):
                client.deliver_guaranteed(update)

    async def publish_progress(self, body: BenchmarkProgress) -> None:
        update = updates.benchmark_progress(body)
        now_s = time.monotonic()
        for client in self.clients:
            client.deliver(update, now_s)


class Topics:
    """The models and accounts with clients at this replica.

    Attributes:
        decoded: events decoded since the process started.
    """

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self.models: dict[tuple[str, str], Topic] = {}
        self.accounts: dict[str, Account] = {}
        self.decoded = 0
        self._ending = Background()

    async def enter(self, account: str, client: Receiver) -> Account:
        """Subscribe a client to the account's alerts and benchmarks.

        Raises:
            Unavailable: the bus is unavailable.
        """
        entry = self.accounts.setdefault(account, Account())
        entry.clients.setdefault(client, SeenAlerts())
        if entry.listening is None or _failed(entry.listening):
            entry.listening = asyncio.ensure_future(self._listen_to_account(account, entry))
        # Other clients wait for it too: one that leaves must not cancel it.
        await asyncio.shield(entry.listening)
        return entry

    def exit(self, account: str, client: Receiver) -> None:
        entry = self.accounts.get(account)
        if entry is None or entry.clients.pop(client, None) is None:
            return
        if not entry.clients:
            del self.accounts[account]
            self._stop(entry.listening)

    async def join(
        self,
        account: str,
        model: str,
        client: Receiver,
        metrics: frozenset[str] | None,
        *,
        hold: bool = False,
    ) -> Topic:
        """Subscribe a client to a model, or change its subscription.

        Everything published after this returns is delivered; with `hold` it is held back
        until the topic's `release`.

        Raises:
            Unavailable: the bus is unavailable; the client is not subscribed.
        """
        topic = self.models.get((account, model))
        if topic is None:
            topic = self.models[account, model] = Topic(account, model)
        subscriber = topic.subscribers.get(client)
        if subscriber is None:
            subscriber = topic.subscribers[client] = Subscriber(metrics, topic.count)
        subscriber.change(metrics)
        if hold:
            topic.hold(subscriber)
        if topic.listening is None or _failed(topic.listening):
            topic.listening = asyncio.ensure_future(self._listen_to_model(topic))
        try:
            await asyncio.shield(topic.listening)
        except Unavailable:
            self.leave(account, model, client)
            raise
        return topic

    def lose(self) -> None:
        """Drop every cursor, since lost events invalidate them until the clients resubscribe.

        New events wait for the clients that had one.
        """
        for topic in self.models.values():
            for client, subscriber in topic.subscribers.items():
                had_cursor = subscriber.cursor is not None
                subscriber.cursor, subscriber.lost = None, True
                seen = self._seen(topic.account, client)
                # A replay that is running holds them already, and waits when it ends.
                if had_cursor and subscriber.held is None and seen is not None:
                    topic.wait(client, subscriber, seen)

    def resume(self, account: str, model: str, client: Receiver) -> None:
        """Deliver what waits for a client's subscription to a model, if it waits."""
        topic = self.models.get((account, model))
        if topic is not None and (subscriber := topic.subscribers.get(client)) is not None:
            topic.resume(client, subscriber)

    def _seen(self, account: str, client: Receiver) -> SeenAlerts | None:
        """Return the alerts that a client has; None if it has left the account."""
        entry = self.accounts.get(account)
        return entry.clients.get(client) if entry is not None else None

    def leave(self, account: str, model: str, client: Receiver) -> bool:
        """Unsubscribe a client; return whether it was subscribed."""
        topic = self.models.get((account, model))
        if topic is None or client not in topic.subscribers:
            return False
        topic.give_up(client, self._seen(account, client))
        self.remove_unused(topic)
        return True

    def remove_unused(self, topic: Topic) -> None:
        """Unsubscribe from a model that no local client follows."""
        if not topic.subscribers and self.models.get((topic.account, topic.model)) is topic:
            del self.models[topic.account, topic.model]
            self._stop(topic.listening)

    async def _listen_to_model(self, topic: Topic) -> list[Subscription]:
        async def receive(body: MetricUpdate) -> None:
            self.decoded += 1
            await topic.publish(body)

        which = f"{token(topic.account)}.{token(topic.model)}"
        return await self._confirm(self.bus.subscribe(METRICS_RECORDED, receive, filter=which))

    async def _listen_to_account(self, account: str, entry: Account) -> list[Subscription]:
        async def receive_alert(body: AlertEvent) -> None:
            self.decoded += 1
            await entry.publish_alert(body, self.models.get((account, body.model_id)))

        async def receive_progress(body: BenchmarkProgress) -> None:
            self.decoded += 1
            await entry.publish_progress(body)

        which = f"{token(account)}.*"
        return await self._confirm(
            self.bus.subscribe(ALERT_RAISED, receive_alert, filter=which),
            self.bus.subscribe(PROGRESSED, receive_progress, filter=which),
        )

    async def _confirm(self, *subscribing: Awaitable[Subscription]) -> list[Subscription]:
        """Subscribe, and wait until the server has confirmed the subscriptions."""
        subscriptions: list[Subscription] = []
        try:
            for confirmed in subscribing:
                subscriptions.append(await confirmed)  # noqa: PERF401  (undone if a later one fails)
            await self.bus.client.flush(timeout=CONFIRM_TIMEOUT_S)
        except (*LOST, TimeoutError) as error:
            with contextlib.suppress(*LOST):
                for subscription in subscriptions:
                    await subscription.unsubscribe()
            raise Unavailable("the bus is unavailable; try again", retry_after=1) from error
        return subscriptions

    def _stop(self, listening: asyncio.Task[list[Subscription]] | None) -> None:
        async def stop() -> None:
            assert listening is not None
            try:
                for subscription in await listening:
                    await subscription.unsubscribe()
            except (*LOST, Unavailable) as error:
                log.info("not unsubscribed", error=repr(error))

        if listening is not None:
            self._ending.start(stop())


def _failed(listening: asyncio.Task[list[Subscription]]) -> bool:
    return listening.done() and (listening.cancelled() or listening.exception() is not None)
