"""A model of an account, with its subscribers and their positions."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from nats.aio.subscription import Subscription

from common.contracts.alerts import AlertEvent
from common.contracts.history import MetricUpdate, Position
from common.contracts.timestamps import MAX_TIME_US, to_us
from realtime import update as updates
from realtime.cursor import Cursor
from realtime.update import Update, model_topic

# Recent moments of a model, so that a replay repeats nothing: five seconds of the busiest.
# Also the alerts remembered per client.
MAX_RECENT = 1024
# Max moments held back from a client during a replay, which reads any further ones from the
# database.
MAX_HELD = 1024
# How long a client that was told of a gap may take to subscribe again.
RESUBSCRIBE_TIMEOUT_S = 10.0


class Receiver(Protocol):
    """The interface of a client that a topic uses."""

    def deliver(self, update: Update, now_s: float) -> None: ...

    def deliver_guaranteed(self, update: Update, after: str = "") -> None: ...


@dataclass(slots=True)
class Moment:
    """A sample or an alert of a model.

    Attributes:
        update: the event to send; None for a client that has it and only counts it.
        arrival, at: a sample's place, as in `Cursor`; 0 for an alert.
        alert: the alert, if it is one.
    """

    update: Update | None
    arrival: int = 0
    at: int = 0
    alert: AlertEvent | None = None


class SeenAlerts:
    """The latest alerts sent to a client, so that each is sent once."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], AlertEvent] = {}

    def __contains__(self, news: AlertEvent) -> bool:
        return (news.id, news.type) in self._seen

    def of_model(self, model: str) -> list[AlertEvent]:
        return [news for news in self._seen.values() if news.model_id == model]

    def add(self, news: AlertEvent) -> bool:
        """Add an alert; return whether it is new to the client."""
        if news in self:
            return False
        self._seen[news.id, news.type] = news
        if len(self._seen) > MAX_RECENT:
            del self._seen[next(iter(self._seen))]
        return True


@dataclass(slots=True)
class Wait:
    """The wait of a client that was told of a gap, until it subscribes again.

    Attributes:
        timer: ends it.
        seen: the alerts that the client has.
    """

    timer: asyncio.TimerHandle
    seen: SeenAlerts


class Subscriber:
    """A client's subscription to one model.

    Attributes:
        metrics: the metrics it wants; None: all.
        constant: the metrics it has wanted all the time; None: all.
        cursor: its position, sent with every update; None: it did not ask for one.
        replayed: per writer, the last place of its replay, which the bus may still bring.
        replayed_from: the position after which that replay began; None: there was none.
        since: the topic's count of events when its gapless stretch began.
        until: the count when it was held.
        held: what arrived during its replay, or since a gap; None: nothing is held back.
        overflowed: more arrived than is held.
        wait: its wait to subscribe again after a gap; None: it does not wait.
        lost: an event was lost since it subscribed; no cursor may claim that it was received.
    """

    __slots__ = (
        "constant", "cursor", "held", "lost", "metrics", "overflowed", "replayed",
        "replayed_from", "since", "until", "wait",
    )  # fmt: skip

    def __init__(self, metrics: frozenset[str] | None, since: int) -> None:
        self.metrics = self.constant = metrics
        self.cursor: Cursor | None = None
        self.replayed: dict[int, tuple[int, int]] = {}
        self.replayed_from: Position | None = None
        self.since = self.until = since
        self.held: list[Moment] | None = None
        self.overflowed = self.lost = False
        self.wait: Wait | None = None

    def change(self, metrics: frozenset[str] | None) -> None:
        """Change the selected metrics from now on."""
        self.lost = False
        if self.constant is None or metrics is None:
            self.constant = self.constant if metrics is None else metrics
        else:
            self.constant &= metrics
        self.metrics = metrics

    def was_replayed(self, arrival: int, at: int, *, after_gap: bool) -> bool:
        """Whether its last replay sent a sample.

        After a gap, those before that replay count as well: the client had them, or did not want
        them, when it subscribed.
        """
        writer, place = arrival & 255, (arrival, at)
        if self.replayed_from is None or place > self.replayed.get(writer, (0, 0)):
            return False
        places = {begin & 255: (begin, moment) for begin, moment in self.replayed_from.places}
        floor = (self.replayed_from.floor, MAX_TIME_US)
        return after_gap or place > places.get(writer, floor)

    def stop_waiting(self) -> None:
        if self.wait is not None:
            self.wait.timer.cancel()
            self.wait = None

    def hold(self, moment: Moment) -> None:
        if self.held is None or self.overflowed:
            return
        self.held.append(moment)
        if len(self.held) > MAX_HELD:
            self.held, self.overflowed = [], True

    def take(self, moment: Moment) -> Update | None:
        """Advance the cursor; return the update to send, None if there is none to send."""
        place = (moment.arrival, moment.at)
        if place <= self.replayed.get(moment.arrival & 255, (0, 0)):
            return None
        if self.cursor is not None:
            self.cursor.advance(*place)
        update = moment.update
        if update is not None and self.metrics is not None:
            update = update.select(self.metrics)
        return self.with_cursor(update) if update is not None else None

    def with_cursor(self, update: Update) -> Update:
        return update if self.cursor is None else update.with_cursor(self.cursor.text)


class Topic:
    """A model with subscribers at this replica.

    Attributes:
        recent: the last events: their count, time and metrics.
    """

    def __init__(self, account: str, model: str) -> None:
        self.account = account
        self.model = model
        self.subscribers: dict[Receiver, Subscriber] = {}
        self.count = 0
        self.recent: deque[tuple[int, datetime, list[str]]] = deque(maxlen=MAX_RECENT)
        self.listening: asyncio.Task[list[Subscription]] | None = None

    async def publish(self, body: MetricUpdate) -> None:
        """Deliver a sample to every subscriber."""
        self.count += 1
        at = datetime.fromisoformat(body.timestamp)
        self.recent.append((self.count, at, list(body.metrics)))
        moment = Moment(updates.metric_update(body), body.arrival, to_us(at))
        now_s = time.monotonic()
        for client, subscriber in self.subscribers.items():
            if subscriber.held is not None and self._holds(client, subscriber, moment):
                continue
            if (update := subscriber.take(moment)) is not None:
                client.deliver(update, now_s)

    def hold(self, subscriber: Subscriber) -> None:
        """Hold events back until `release`, and forget an earlier wait or overflow."""
        subscriber.stop_waiting()
        if subscriber.held is None:
            subscriber.held, subscriber.until = [], self.count
        subscriber.overflowed = False

    def wait(self, client: Receiver, subscriber: Subscriber, seen: SeenAlerts) -> None:
        """Hold events back until the client, told of a gap, subscribes again with a position.

        Without a cursor, they would come again if its connection broke before that. A client that
        ignores gaps gets them after a while, or when there are too many.
        """
        if self.subscribers.get(client) is not subscriber:
            return  # the subscriber has left
        self.hold(subscriber)
        timer = asyncio.get_running_loop().call_later(
            RESUBSCRIBE_TIMEOUT_S, self.resume, client, subscriber
        )
        subscriber.wait = Wait(timer, seen)

    def resume(self, client: Receiver, subscriber: Subscriber) -> None:
        """End a wait; deliver what was held like new events, so that newer ones may replace it."""
        wait = subscriber.wait
        if wait is None:
            return
        subscriber.stop_waiting()
        held, subscriber.held = subscriber.held or [], None
        now_s = time.monotonic()
        for moment in held:
            if moment.alert is not None:
                self.send_alert(client, wait.seen, moment)
            elif (update := subscriber.take(moment)) is not None:
                client.deliver(update, now_s)

    def _holds(self, client: Receiver, subscriber: Subscriber, moment: Moment) -> bool:
        """Hold an event back, unless nothing is held back or a wait ends; return whether it was."""
        if subscriber.wait is not None and len(subscriber.held or ()) >= MAX_HELD:
            self.resume(client, subscriber)
        subscriber.hold(moment)
        return subscriber.held is not None

    def release(self, client: Receiver, subscriber: Subscriber, seen: SeenAlerts) -> bool:
        """Deliver the held updates that were not replayed; return whether none was dropped."""
        held, subscriber.held = subscriber.held or [], None
        complete, subscriber.overflowed = not subscriber.overflowed, False
        if self.subscribers.get(client) is not subscriber:
            return complete  # the subscriber has left
        for moment in held:
            if moment.alert is not None:
                self.send_alert(client, seen, moment)
            elif (update := subscriber.take(moment)) is not None:
                client.deliver_guaranteed(update, model_topic(self.model))
        return complete

    def give_up(self, client: Receiver, seen: SeenAlerts | None) -> None:
        """Unsubscribe a client, also one whose replay failed.

        Its held alerts are delivered, unless it has left the account (`seen` is None).
        """
        subscriber = self.subscribers.pop(client, None)
        if subscriber is None:
            return
        subscriber.stop_waiting()
        if seen is None:
            return
        for moment in subscriber.held or []:
            if moment.alert is not None and moment.update and seen.add(moment.alert):
                client.deliver_guaranteed(moment.update)

    def send_alert(self, client: Receiver, seen: SeenAlerts, moment: Moment) -> None:
        """Deliver an alert to a subscriber, with its cursor."""
        assert moment.alert is not None
        assert moment.update is not None
        subscriber = self.subscribers[client]
        if not self._holds(client, subscriber, moment) and seen.add(moment.alert):
            update, behind = moment.update, ""
            if subscriber.cursor is not None:
                # Its cursor covers the updates that wait, so it must not overtake them.
                subscriber.cursor.add_alert(moment.alert)
                update, behind = subscriber.with_cursor(update), model_topic(self.model)
            client.deliver_guaranteed(update, behind)

    def delivered(self, subscriber: Subscriber) -> set[tuple[datetime, str]]:
        """Return the recent (time, metric) pairs that a subscriber received before its replay."""
        return {
            (at, name)
            for count, at, names in self.recent
            if subscriber.since < count <= subscriber.until
            for name in names
            if subscriber.constant is None or name in subscriber.constant
        }
