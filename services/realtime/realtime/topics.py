"""Who wants to hear what: subscriptions on the bus exactly while somebody does.

A replica subscribes to `event.metrics.recorded.<account>.<model>` when the
first of its clients asks for that model, and stops when the last one leaves;
so no replica decodes what none of its clients wants. An event is decoded
once, encoded once for each selection of metrics, and written to every client.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable
from datetime import datetime
from typing import Any, Protocol

import nats.errors
import structlog
from nats.aio.subscription import Subscription

from common.bus import NatsBus, token
from common.contracts.benchmarking import PROGRESSED, BenchmarkProgress
from common.contracts.monitoring import ALERT_RAISED, METRICS_RECORDED, AlertNews, MetricUpdate
from common.errors import Unavailable
from realtime import update as updates
from realtime.cursor import Cursor, microseconds
from realtime.update import Update

log = structlog.get_logger()

# Moments of a model that are remembered, so that whoever asks what it missed
# does not get again what it got: five seconds of the busiest.
REMEMBERED = 1024


class Receiver(Protocol):
    """What a topic needs of a client."""

    def waits_for(self, topic: str) -> bool: ...

    def deliver(self, update: Update, now: float) -> None: ...

    def keep(self, update: Update) -> None: ...


class Member:
    """A client's wish about one model.

    Attributes:
        wanted: metrics; None: all of them.
        marked: it gets the cursor with everything.
        since: the topic's count of events when it began to hear them without a gap.
        held: what came while it is being told what it missed; None: it hears at once.
    """

    __slots__ = ("held", "marked", "since", "wanted")

    def __init__(self, wanted: frozenset[str] | None, since: int) -> None:
        self.wanted = wanted
        self.marked = False
        self.since = since
        self.held: list[Update] | None = None


class Topic:
    """One model of one account, while it has members here.

    Attributes:
        cursor: how far its members have heard.
        recent: of what they heard last: the count, the time, the names of metrics.
    """

    def __init__(self, account: str, model: str) -> None:
        self.account = account
        self.model = model
        self.members: dict[Receiver, Member] = {}
        self.count = 0
        self.cursor = Cursor.now()
        self.recent: deque[tuple[int, datetime, list[str]]] = deque(maxlen=REMEMBERED)
        self.listening: asyncio.Task[list[Subscription]] | None = None

    async def hear(self, body: MetricUpdate) -> None:
        self.count += 1
        at = datetime.fromisoformat(body.timestamp)
        self.recent.append((self.count, at, list(body.metrics)))
        self.cursor.hear(body.arrival, microseconds(at))
        update = updates.metric_update(body)
        now = time.monotonic()
        for client, member in self.members.items():
            one = update if member.wanted is None else update.part(member.wanted)
            if one is None:
                continue
            if member.marked:
                one = one.marked(self.cursor.text)
            if member.held is None:
                client.deliver(one, now)
            else:
                member.held.append(one)

    def hear_alert(self, client: Receiver, update: Update) -> None:
        """For a client that hears it anyway, as one of the account's."""
        member = self.members.get(client)
        if member is None:
            client.keep(update)
            return
        # An alert overtakes updates that wait, and must not say that they were heard.
        behind = member.held is None and client.waits_for(updates.topic_of(self.model))
        if member.marked and not behind:
            update = update.marked(self.cursor.text)
        if member.held is None:
            client.keep(update)
        else:
            member.held.append(update)

    def heard(self, member: Member) -> set[tuple[datetime, str]]:
        """What the member has heard of what is remembered, or will hear without being told."""
        heard = {
            (at, name) for count, at, names in self.recent if count > member.since for name in names
        }
        for update in member.held or []:
            if update.event == "metric_update":
                at = datetime.fromisoformat(update.data["timestamp"])
                heard |= {(at, name) for name in update.data["metrics"]}
        return heard


class Account:
    """What concerns everything an account owns, while it has clients here."""

    def __init__(self) -> None:
        # Each with the count of alerts when it came.
        self.members: dict[Receiver, int] = {}
        self.count = 0
        self.alerts: deque[tuple[int, AlertNews]] = deque(maxlen=REMEMBERED)
        self.listening: asyncio.Task[list[Subscription]] | None = None

    async def hear_alert(self, body: AlertNews, topic: Topic | None) -> None:
        self.count += 1
        self.alerts.append((self.count, body))
        update = updates.alert(body)
        if topic is not None:
            topic.cursor.hear_alert(body.at)
        for client in list(self.members):
            if topic is None:
                client.keep(update)
            else:
                topic.hear_alert(client, update)

    def heard(self, client: Receiver) -> set[tuple[str, str]]:
        """The alerts that the client has heard, of those that are remembered."""
        since = self.members.get(client, self.count)
        return {(body.id, body.type) for count, body in self.alerts if count > since}

    async def hear_progress(self, body: BenchmarkProgress) -> None:
        update = updates.benchmark_progress(body)
        now = time.monotonic()
        for client in self.members:
            client.deliver(update, now)


class Topics:
    """All of them.

    Attributes:
        decoded: events that this process has decoded since it began.
    """

    def __init__(self, bus: NatsBus) -> None:
        self.bus = bus
        self.models: dict[tuple[str, str], Topic] = {}
        self.accounts: dict[str, Account] = {}
        self.decoded = 0
        self._ending: set[asyncio.Task[Any]] = set()

    async def enter(self, account: str, client: Receiver) -> Account:
        """Let a client hear the account's alerts and benchmarks.

        Raises:
            Unavailable: the bus is away.
        """
        found = self.accounts.setdefault(account, Account())
        found.members[client] = found.count
        if found.listening is None:
            found.listening = asyncio.ensure_future(self._listen_to_account(account, found))
        await _shielded(found.listening)
        return found

    def exit(self, account: str, client: Receiver) -> None:
        found = self.accounts.get(account)
        if found is None or found.members.pop(client, None) is None:
            return
        if not found.members:
            del self.accounts[account]
            self._stop(found.listening)

    async def join(
        self,
        account: str,
        model: str,
        client: Receiver,
        wanted: frozenset[str] | None,
        *,
        marked: bool = False,
        hold: bool = False,
    ) -> Topic:
        """Let a client hear a model's metrics; a second wish replaces the first.

        When this returns, whatever is published from now on is heard. With
        `hold` it is kept back, for `missed.tell` to hand over.

        Raises:
            Unavailable: the bus is away; the client is not a member then.
        """
        topic = self.models.get((account, model))
        if topic is None:
            topic = self.models[account, model] = Topic(account, model)
            for _, alert in self.accounts[account].alerts:
                if alert.model_id == model:
                    topic.cursor.hear_alert(alert.at)
        member = topic.members.get(client)
        if member is None:
            member = topic.members[client] = Member(wanted, topic.count)
        member.wanted, member.marked = wanted, marked
        if hold and member.held is None:
            member.held = []
        if topic.listening is None:
            topic.listening = asyncio.ensure_future(self._listen_to_model(topic))
        try:
            await _shielded(topic.listening)
        except Unavailable:
            self.leave(account, model, client)
            raise
        return topic

    def leave(self, account: str, model: str, client: Receiver) -> bool:
        """Whether it was a member."""
        topic = self.models.get((account, model))
        if topic is None or topic.members.pop(client, None) is None:
            return False
        if not topic.members:
            del self.models[account, model]
            self._stop(topic.listening)
        return True

    async def _listen_to_model(self, topic: Topic) -> list[Subscription]:
        async def hear(body: MetricUpdate) -> None:
            self.decoded += 1
            await topic.hear(body)

        which = f"{token(topic.account)}.{token(topic.model)}"
        return await self._confirmed(self.bus.subscribe(METRICS_RECORDED, hear, filter=which))

    async def _listen_to_account(self, account: str, found: Account) -> list[Subscription]:
        async def hear_alert(body: AlertNews) -> None:
            self.decoded += 1
            await found.hear_alert(body, self.models.get((account, body.model_id)))

        async def hear_progress(body: BenchmarkProgress) -> None:
            self.decoded += 1
            await found.hear_progress(body)

        which = f"{token(account)}.*"
        return await self._confirmed(
            self.bus.subscribe(ALERT_RAISED, hear_alert, filter=which),
            self.bus.subscribe(PROGRESSED, hear_progress, filter=which),
        )

    async def _confirmed(self, *subscribing: Awaitable[Subscription]) -> list[Subscription]:
        """Subscribe, and wait until the server has heard it."""
        subscriptions: list[Subscription] = []
        try:
            for one in subscribing:
                subscriptions.append(await one)  # noqa: PERF401  (undone if a later one fails)
            await self.bus.client.flush(timeout=2)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            with contextlib.suppress(nats.errors.Error, OSError):
                for subscription in subscriptions:
                    await subscription.unsubscribe()
            raise Unavailable("the bus is away; try again", retry_after=1) from error
        return subscriptions

    def _stop(self, listening: asyncio.Task[list[Subscription]] | None) -> None:
        async def stop() -> None:
            assert listening is not None
            try:
                for subscription in await listening:
                    await subscription.unsubscribe()
            except (nats.errors.Error, OSError, Unavailable) as error:
                log.info("not unsubscribed", error=repr(error))

        if listening is not None:
            task = asyncio.ensure_future(stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


async def _shielded(listening: asyncio.Task[list[Subscription]]) -> None:
    """Others wait for it too: a client that goes away must not cancel it."""
    await asyncio.shield(listening)
