"""The replay of missed updates from the database."""

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from weakref import WeakValueDictionary

import structlog

from common.bus import Bus
from common.contracts.alerts import LIST_ALERTS, Alert, AlertEvent, AlertsRequest
from common.contracts.history import (
    HISTORY,
    RECALL,
    History,
    HistoryRequest,
    MetricUpdate,
    Moments,
    Position,
    RecallRequest,
    arrival_of,
)
from common.contracts.timestamps import parse_time, to_us
from common.errors import NotFound, ServiceError, Unavailable
from realtime import update as updates
from realtime.client import Client
from realtime.cursor import Cursor
from realtime.topic import Moment, SeenAlerts, Subscriber, Topic
from realtime.update import model_topic

log = structlog.get_logger()

# Moments read and sent together. The times of all missed moments are read at once, the values only
# for these, so a replay costs little memory however slowly a client reads.
BATCH_MOMENTS = 100
ALERTS_PER_PAGE, MAX_ALERTS = 200, 1_000
# Replays that run at a time: of one account, and in all.
MAX_CONCURRENT_PER_ACCOUNT, MAX_CONCURRENT = 2, 64
# The time that a client has to read its replay. Without this limit, a client that reads a little
# now and then would keep the others waiting.
REPLAY_READ_TIMEOUT_S = 60.0
# Rounds in which a replay reads updates that arrived meanwhile, if they are more than can be held.
MAX_ROUNDS = 3

# Whether a client has a sample, by its arrival, its time and its metric.
Received = Callable[[int, datetime, str], bool]


class Replay:
    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._free = asyncio.Semaphore(MAX_CONCURRENT)
        # By account, while it has a replay running.
        self._free_by_account: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def run(
        self,
        client: Client,
        seen: SeenAlerts,
        topic: Topic,
        *,
        since: datetime | Cursor,
        with_cursor: bool,
    ) -> bool:
        """Send all updates after `since` in order, each once, and those that arrive meanwhile.

        The client is held (`Topics.join`), and stays so if this fails.

        Args:
            client: the receiver.
            seen: the alerts it has.
            topic: the model it follows.
            since: its position: a cursor, or the time of its last update, or the time when
                it was last connected.
            with_cursor: whether it gets a cursor with every update.

        Returns:
            False if more was missed than a replay sends; then the newest part was sent.

        Raises:
            ServiceError: unavailable, or incomplete; the client has to ask again.
        """
        subscriber = topic.subscribers[client]
        turn = self._free_by_account.setdefault(
            topic.account, asyncio.Semaphore(MAX_CONCURRENT_PER_ACCOUNT)
        )
        try:
            async with turn, self._free, asyncio.timeout(REPLAY_READ_TIMEOUT_S):
                cursor, begin, complete = await self._send(
                    client, subscriber, seen, topic, since, with_cursor
                )
                for _ in range(MAX_ROUNDS):
                    if not subscriber.overflowed:
                        break
                    topic.hold(subscriber)
                    cursor, _, rest = await self._send(
                        client, subscriber, seen, topic, cursor, with_cursor
                    )
                    complete = complete and rest
        except TimeoutError:
            raise Unavailable(
                f"missed updates were not read within {REPLAY_READ_TIMEOUT_S:g} s; subscribe again"
                " from the last one received",
                retry_after=1,
            ) from None
        subscriber.replayed, subscriber.replayed_from = dict(cursor.places), begin
        if with_cursor and subscriber.lost:
            complete = complete and not subscriber.overflowed
            subscriber.cursor = None
            topic.wait(client, subscriber, seen)
            return complete
        subscriber.cursor = cursor if with_cursor else None
        return topic.release(client, subscriber, seen) and complete

    async def _send(
        self,
        client: Client,
        subscriber: Subscriber,
        seen: SeenAlerts,
        topic: Topic,
        since: datetime | Cursor,
        with_cursor: bool,
    ) -> tuple[Cursor, Position, bool]:
        """Send the updates after `since`; return the positions reached and begun at, and if all.

        Those that the client received before, on this connection, only advance the position.
        """
        metrics = sorted(subscriber.metrics) if subscriber.metrics else None
        history = await self._history(topic.model, since, metrics)
        place = history.position
        cursor = (
            since if isinstance(since, Cursor) else Cursor(place.floor, place.alerted, place.places)
        )
        alerts, whole = await self._alerts(topic.model, cursor)
        received = _received(client, subscriber, topic, since)

        def send(moment: Moment) -> None:
            cursor.advance(moment.arrival, moment.at)
            if moment.alert is not None:
                cursor.add_alert(moment.alert)
                if not seen.add(moment.alert):
                    return
            if moment.update is not None:
                update = moment.update.with_cursor(cursor.text) if with_cursor else moment.update
                client.deliver_guaranteed(update, model_topic(topic.model))

        async for moment in self._samples(topic.model, history.moments, metrics, received):
            while alerts and _arrival(alerts[0]) <= moment.arrival:
                send(Moment(updates.alert(alerts[0]), alert=alerts.pop(0)))
            await client.has_room()
            if client.closed:
                return cursor, place, False
            send(moment)
        for news in alerts:
            send(Moment(updates.alert(news), alert=news))
        return cursor, place, whole and history.complete

    async def start(self, topic: Topic, client: Client, seen: SeenAlerts) -> None:
        """Create the cursor of a new subscriber, to whom all stored updates count as received.

        A sample that is being committed at this moment is delivered later, or missed and
        replayed. If the history is unavailable, the last seconds count as missed.
        """
        subscriber = topic.subscribers[client]
        cursor = subscriber.cursor = Cursor.now()
        for news in seen.of_model(topic.model):
            cursor.add_alert(news)
        try:
            history = await self._history(topic.model, cursor, None)
            for arrival, at in history.moments.unpack():
                cursor.advance(arrival, at)
        except ServiceError as error:
            log.info("cursor starts without history", error=error.message)
        finally:
            if subscriber.lost:
                subscriber.cursor = None
                topic.wait(client, subscriber, seen)
            else:
                topic.release(client, subscriber, seen)

    async def _history(
        self, model: str, since: datetime | Cursor, metrics: list[str] | None
    ) -> History:
        """Find when samples arrived after `since`; an unrecorded model has an empty history."""
        request = HistoryRequest(
            model_id=model,
            since=since if isinstance(since, datetime) else None,
            position=since.position if isinstance(since, Cursor) else None,
            metrics=metrics,
        )
        try:
            return await self.bus.call(HISTORY, request)
        except NotFound:
            place = since if isinstance(since, Cursor) else Cursor.at(max(to_us(since), 0))
            return History(moments=Moments.pack([]), complete=True, position=place.position)

    async def _samples(
        self,
        model: str,
        moments: Moments,
        metrics: list[str] | None,
        received: Received,
    ) -> AsyncIterator[Moment]:
        """Yield samples by arrival; those that were already received have no update."""
        done = 0
        while done < len(moments):
            part = moments.part(done, done + BATCH_MOMENTS)
            request = RecallRequest(model_id=model, moments=part, metrics=metrics)
            recalled = await self.bus.call(RECALL, request)
            for body in recalled.updates:
                yield _moment(body, received)
            done += max(recalled.count, 1)

    async def _alerts(self, model: str, cursor: Cursor) -> tuple[list[AlertEvent], bool]:
        """Return the alerts that the cursor lacks, oldest first, and whether these are all."""
        events: list[AlertEvent] = []
        before: str | None = None
        while len(events) < MAX_ALERTS:
            request = AlertsRequest(model_id=model, before=before, limit=ALERTS_PER_PAGE)
            page = (await self.bus.call(LIST_ALERTS, request)).alerts
            events += [news for alert in page for news in _news(alert) if not cursor.covers(news)]
            if len(page) < ALERTS_PER_PAGE or to_us(page[-1].raised_at) <= cursor.alerted:
                return sorted(events, key=_arrival), True
            before = page[-1].id
        return sorted(events, key=_arrival), False


def _received(
    client: Client, subscriber: Subscriber, topic: Topic, since: datetime | Cursor
) -> Received:
    delivered = topic.delivered(subscriber)
    after_gap = client.gap is not None and since == client.gap

    def received(arrival: int, at: datetime, metric: str) -> bool:
        if (at, metric) in delivered:
            return True
        constant = subscriber.constant is None or metric in subscriber.constant
        return constant and subscriber.was_replayed(arrival, to_us(at), after_gap=after_gap)

    return received


def _moment(body: MetricUpdate, received: Received) -> Moment:
    time = parse_time(body.timestamp)
    metrics = {k: v for k, v in body.metrics.items() if not received(body.arrival, time, k)}
    new = body.model_copy(update={"metrics": metrics})
    update = updates.metric_update(new) if metrics else None
    return Moment(update, body.arrival, to_us(time))


def _news(alert: Alert) -> list[AlertEvent]:
    """Return the events of an alert: when it was raised, and when it recovered."""
    raised = AlertEvent.model_validate({**alert.model_dump(), "at": alert.raised_at})
    if alert.recovered_at is None:
        return [raised]
    recovery = {
        "type": f"{alert.type}_recovered", "severity": "info", "message": alert.recovery,
        "at": alert.recovered_at,
    }  # fmt: skip
    return [raised, raised.model_copy(update=recovery)]


def _arrival(news: AlertEvent) -> int:
    """Return an alert's time in the form of a sample's arrival; 0 without a time."""
    return arrival_of(to_us(news.at)) if news.at else 0
