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
from dataclasses import dataclass
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
from realtime.update import Update, topic_of

log = structlog.get_logger()

# Moments of a model that are remembered, so that whoever asks what it missed
# does not get again what it got: five seconds of the busiest.
REMEMBERED = 1024
# Moments that are held for a client that is being told what it missed. If more
# come, they are looked for where it is told from.
MOST_HELD = 1024
# What there is when the connection to the bus ends; of one that has just ended uvloop says
# RuntimeError.
LOST = (nats.errors.Error, OSError, RuntimeError)


class Receiver(Protocol):
    """What a topic needs of a client."""

    def deliver(self, update: Update, now: float) -> None: ...

    def keep(self, update: Update, after: str = "") -> None: ...


@dataclass(slots=True)
class Moment:
    """Something that happened to a model, as it is told.

    Attributes:
        update: None for who has heard it already, and only counts it.
        arrival, at: of a sample, as `Cursor` has them; 0 of an alert.
        alert: an alert's news.
    """

    update: Update | None
    arrival: int = 0
    at: int = 0
    alert: AlertNews | None = None


class Member:
    """A client's wish about one model, and how far it has heard it.

    Attributes:
        wanted: metrics; None: all of them.
        heard: the metrics that it has heard all the time; None: all of them.
        cursor: what it gets with everything; None: it did not ask for one.
        told: by writer how far it was told of the past, of which some may still be under way.
        since: the topic's count of events when it began to hear them without a gap.
        until: the count when it was held.
        held: what came while it is being told what it missed; None: it hears at once.
        overflowed: more came than is held.
        lost: something was lost since it asked; no cursor may say that it was heard.
    """

    __slots__ = (
        "cursor", "heard", "held", "lost", "overflowed", "since", "told", "until", "wanted",
    )  # fmt: skip

    def __init__(self, wanted: frozenset[str] | None, since: int) -> None:
        self.wanted = self.heard = wanted
        self.cursor: Cursor | None = None
        self.told: dict[int, tuple[int, int]] = {}
        self.since = self.until = since
        self.held: list[Moment] | None = None
        self.overflowed = self.lost = False

    def wish(self, wanted: frozenset[str] | None) -> None:
        """Hear other metrics from now on."""
        self.lost = False
        if self.heard is None or wanted is None:
            self.heard = self.heard if wanted is None else wanted
        else:
            self.heard &= wanted
        self.wanted = wanted

    def hold(self, moment: Moment) -> None:
        if self.held is None or self.overflowed:
            return
        self.held.append(moment)
        if len(self.held) > MOST_HELD:
            self.held, self.overflowed = [], True

    def hear(self, moment: Moment) -> Update | None:
        """What the client is to get of it: with its cursor, and nothing that it was told."""
        place = (moment.arrival, moment.at)
        if place <= self.told.get(moment.arrival & 255, (0, 0)):
            return None
        if self.cursor is not None:
            self.cursor.hear(*place)
        update = moment.update
        if update is not None and self.wanted is not None:
            update = update.part(self.wanted)
        return self.mark(update) if update is not None else None

    def mark(self, update: Update) -> Update:
        return update if self.cursor is None else update.marked(self.cursor.text)


class Topic:
    """One model of one account, while it has members here.

    Attributes:
        recent: of what its members heard last: the count, the time, the names of metrics.
    """

    def __init__(self, account: str, model: str) -> None:
        self.account = account
        self.model = model
        self.members: dict[Receiver, Member] = {}
        self.count = 0
        self.recent: deque[tuple[int, datetime, list[str]]] = deque(maxlen=REMEMBERED)
        self.listening: asyncio.Task[list[Subscription]] | None = None

    async def hear(self, body: MetricUpdate) -> None:
        self.count += 1
        at = datetime.fromisoformat(body.timestamp)
        self.recent.append((self.count, at, list(body.metrics)))
        moment = Moment(updates.metric_update(body), body.arrival, microseconds(at))
        now = time.monotonic()
        for client, member in self.members.items():
            if member.held is not None:
                member.hold(moment)
            elif (update := member.hear(moment)) is not None:
                client.deliver(update, now)

    def hold(self, member: Member) -> None:
        """What happens from now on waits until `release`; too much of it was let go before."""
        if member.held is None:
            member.held, member.until = [], self.count
        member.overflowed = False

    def release(self, client: Receiver, member: Member, heard: "Alerts") -> bool:
        """Hand over what came meanwhile and was not told; False if some of it was let go."""
        held, member.held = member.held or [], None
        whole, member.overflowed = not member.overflowed, False
        if self.members.get(client) is not member:
            return whole  # it left
        for moment in held:
            if moment.alert is not None:
                self.hear_alert(client, heard, moment)
            elif (update := member.hear(moment)) is not None:
                client.keep(update, topic_of(self.model))
        return whole

    def give_up(self, client: Receiver, heard: "Alerts") -> None:
        """Let a client go that cannot be told what it missed; alerts concern it all the same."""
        member = self.members.pop(client, None)
        for moment in (member.held or []) if member else []:
            if moment.alert is not None and moment.update and heard.hear(moment.alert):
                client.keep(moment.update)

    def hear_alert(self, client: Receiver, heard: "Alerts", moment: Moment) -> None:
        """For a member, which hears it anyway as one of its account's."""
        assert moment.alert is not None
        assert moment.update is not None
        member = self.members[client]
        if member.held is not None:
            member.hold(moment)
        elif heard.hear(moment.alert):
            update, behind = moment.update, ""
            if member.cursor is not None:
                # It may say no more than was heard, so it overtakes nothing of its model.
                member.cursor.hear_alert(moment.alert)
                update, behind = member.mark(update), topic_of(self.model)
            client.keep(update, behind)

    def heard(self, member: Member) -> set[tuple[datetime, str]]:
        """What the member heard, of what is remembered, before it was held."""
        return {
            (at, name)
            for count, at, names in self.recent
            if member.since < count <= member.until
            for name in names
            if member.heard is None or name in member.heard
        }


class Alerts:
    """The alerts that one client has heard, of the last ones: each is told once."""

    def __init__(self) -> None:
        self._heard: dict[tuple[str, str], AlertNews] = {}

    def __contains__(self, news: AlertNews) -> bool:
        return (news.id, news.type) in self._heard

    def of(self, model: str) -> list[AlertNews]:
        return [news for news in self._heard.values() if news.model_id == model]

    def hear(self, news: AlertNews) -> bool:
        """Whether it is new to the client."""
        if news in self:
            return False
        self._heard[news.id, news.type] = news
        if len(self._heard) > REMEMBERED:
            del self._heard[next(iter(self._heard))]
        return True


class Account:
    """What concerns everything an account owns, while it has clients here."""

    def __init__(self) -> None:
        self.members: dict[Receiver, Alerts] = {}
        self.listening: asyncio.Task[list[Subscription]] | None = None

    async def hear_alert(self, body: AlertNews, topic: Topic | None) -> None:
        update = updates.alert(body)
        moment = Moment(update, alert=body)
        for client, heard in list(self.members.items()):
            if topic is not None and client in topic.members:
                topic.hear_alert(client, heard, moment)
            elif heard.hear(body):
                client.keep(update)

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
        found.members.setdefault(client, Alerts())
        if found.listening is None or _failed(found.listening):
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
        hold: bool = False,
    ) -> Topic:
        """Let a client hear a model's metrics; a second wish replaces the first.

        When this returns, whatever is published from now on is heard. With
        `hold` it is kept back, for who tells what was missed to hand over.

        Raises:
            Unavailable: the bus is away; the client is not a member then.
        """
        topic = self.models.get((account, model))
        if topic is None:
            topic = self.models[account, model] = Topic(account, model)
        member = topic.members.get(client)
        if member is None:
            member = topic.members[client] = Member(wanted, topic.count)
        member.wish(wanted)
        if hold:
            topic.hold(member)
        if topic.listening is None or _failed(topic.listening):
            topic.listening = asyncio.ensure_future(self._listen_to_model(topic))
        try:
            await _shielded(topic.listening)
        except Unavailable:
            self.leave(account, model, client)
            raise
        return topic

    def lose(self) -> None:
        """Events were lost. What comes has no cursor until its client asks for what it missed."""
        for topic in self.models.values():
            for member in topic.members.values():
                member.cursor, member.lost = None, True

    def leave(self, account: str, model: str, client: Receiver) -> bool:
        """Whether it was a member."""
        topic = self.models.get((account, model))
        if topic is None or topic.members.pop(client, None) is None:
            return False
        self.tidy(topic)
        return True

    def tidy(self, topic: Topic) -> None:
        """Hear a model no more of which nobody here wants to hear."""
        if not topic.members and self.models.get((topic.account, topic.model)) is topic:
            del self.models[topic.account, topic.model]
            self._stop(topic.listening)

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
        except (*LOST, TimeoutError) as error:
            with contextlib.suppress(*LOST):
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
            except (*LOST, Unavailable) as error:
                log.info("not unsubscribed", error=repr(error))

        if listening is not None:
            task = asyncio.ensure_future(stop())
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


def _failed(listening: asyncio.Task[list[Subscription]]) -> bool:
    return listening.done() and (listening.cancelled() or listening.exception() is not None)


async def _shielded(listening: asyncio.Task[list[Subscription]]) -> None:
    """Others wait for it too: a client that goes away must not cancel it."""
    await asyncio.shield(listening)
