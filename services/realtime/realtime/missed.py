"""What happened while a client was away, from the tables that nothing is lost from."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from weakref import WeakValueDictionary

import structlog

from common.bus import Bus
from common.contracts.monitoring import (
    HISTORY,
    LIST_ALERTS,
    RECALL,
    Alert,
    AlertNews,
    AlertsRequest,
    HistoryRequest,
    MetricUpdate,
    Moments,
    RecallRequest,
    parse_time,
)
from common.errors import ServiceError, Unavailable
from realtime import update as updates
from realtime.client import Client
from realtime.cursor import Cursor, microseconds
from realtime.topics import Alerts, Member, Moment, Topic
from realtime.update import topic_of

log = structlog.get_logger()

# Moments that are fetched and handed over together. When they were is known of
# all that were missed; what they were of these alone, so that it costs little
# memory however slowly a client reads.
TOGETHER = 100
ALERTS_A_PAGE, MOST_ALERTS = 200, 1_000
# Who is told what it missed at the same time: of one account, and of all.
AT_ONCE_OF_ACCOUNT, AT_ONCE = 2, 64
# Seconds in which a client reads what it missed. One that reads a little now and then would keep
# others waiting for as long as it likes.
READING = 60.0
# So often what came meanwhile is looked for again, if it is more than is held.
MOST_ROUNDS = 3


class Missed:
    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self._free = asyncio.Semaphore(AT_ONCE)
        # Of each account for whom something is under way.
        self._free_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def tell(
        self,
        client: Client,
        heard: Alerts,
        topic: Topic,
        *,
        since: datetime | Cursor,
        marked: bool,
    ) -> bool:
        """Send what happened after `since`, in order, and nothing twice; then what came meanwhile.

        The client is held (`Topics.join`), and stays so if this fails. `since`
        is how far it has heard; if it does not know better a time: that of the
        last update it got, or when it was still there. `marked`: it wants the
        cursor with everything.

        Returns:
            False if there was more than is told; then it was the newest.

        Raises:
            ServiceError: it cannot be had now, or not whole; the client is to ask again.
        """
        member = topic.members[client]
        turn = self._free_of.setdefault(topic.account, asyncio.Semaphore(AT_ONCE_OF_ACCOUNT))
        try:
            async with turn, self._free, asyncio.timeout(READING):
                cursor, complete = await self._tell(client, member, heard, topic, since, marked)
                for _ in range(MOST_ROUNDS):
                    if not member.overflowed:
                        break
                    topic.hold(member)
                    cursor, whole = await self._tell(client, member, heard, topic, cursor, marked)
                    complete = complete and whole
        except TimeoutError:
            late = f"what was missed was not read within {READING:g} s; ask for the rest"
            raise Unavailable(late, retry_after=1) from None
        member.told = dict(cursor.places)
        member.cursor = cursor if marked and not member.lost else None
        return topic.release(client, member, heard) and complete

    async def _tell(
        self,
        client: Client,
        member: Member,
        heard: Alerts,
        topic: Topic,
        since: datetime | Cursor,
        marked: bool,
    ) -> tuple[Cursor, bool]:
        """How far that was, and whether it was all."""
        metrics = sorted(member.wanted) if member.wanted else None
        request = HistoryRequest(
            model_id=topic.model,
            since=since if isinstance(since, datetime) else None,
            heard=since.heard if isinstance(since, Cursor) else None,
            metrics=metrics,
        )
        history = await self.bus.call(HISTORY, request)
        place = history.heard
        cursor = (
            since if isinstance(since, Cursor) else Cursor(place.floor, place.alerted, place.places)
        )
        news, whole = await self._alerts(topic.model, cursor)
        known = topic.heard(member)

        def hand_over(moment: Moment) -> None:
            cursor.hear(moment.arrival, moment.at)
            if moment.alert is not None:
                cursor.hear_alert(moment.alert)
                if not heard.hear(moment.alert):
                    return
            if moment.update is not None:
                update = moment.update.marked(cursor.text) if marked else moment.update
                client.keep(update, topic_of(topic.model))

        async for moment in self._samples(topic.model, history.moments, metrics, known):
            while news and _arrival(news[0]) <= moment.arrival:
                hand_over(Moment(updates.alert(news[0]), alert=news.pop(0)))
            await client.has_room()
            if client.gone:
                return cursor, False
            hand_over(moment)
        for one in news:
            hand_over(Moment(updates.alert(one), alert=one))
        return cursor, whole and history.complete

    async def begin(self, topic: Topic, client: Client, heard: Alerts) -> None:
        """Give a cursor to who wants what happens from now on; what is there counts as heard.

        What is being stored at this moment is not there, and will be heard, or
        missed. Where it cannot be asked, a little of what was before counts as
        missed.
        """
        member = topic.members[client]
        cursor = member.cursor = Cursor.now()
        for news in heard.of(topic.model):
            cursor.hear_alert(news)
        try:
            request = HistoryRequest(model_id=topic.model, heard=cursor.heard)
            for arrival, at in (await self.bus.call(HISTORY, request)).moments.unpack():
                cursor.hear(arrival, at)
        except ServiceError as error:
            log.info("nothing counts as heard", error=error.message)
        finally:
            topic.release(client, member, heard)

    async def _samples(
        self,
        model: str,
        moments: Moments,
        metrics: list[str] | None,
        known: set[tuple[datetime, str]],
    ) -> AsyncIterator[Moment]:
        """In the order of arrival; without an update where all of it is known."""
        told = 0
        while told < len(moments):
            part = moments.part(told, told + TOGETHER)
            request = RecallRequest(model_id=model, moments=part, metrics=metrics)
            recalled = await self.bus.call(RECALL, request)
            for body in recalled.updates:
                yield _moment(body, known)
            told += max(recalled.told, 1)

    async def _alerts(self, model: str, cursor: Cursor) -> tuple[list[AlertNews], bool]:
        """Raised or recovered and not heard, oldest first, and whether these are all."""
        found: list[AlertNews] = []
        before: str | None = None
        while len(found) < MOST_ALERTS:
            request = AlertsRequest(model_id=model, before=before, limit=ALERTS_A_PAGE)
            page = (await self.bus.call(LIST_ALERTS, request)).alerts
            found += [news for alert in page for news in _news(alert) if not cursor.has_heard(news)]
            if len(page) < ALERTS_A_PAGE or microseconds(page[-1].raised_at) <= cursor.alerted:
                return sorted(found, key=_arrival), True
            before = page[-1].id
        return sorted(found, key=_arrival), False


def _moment(body: MetricUpdate, known: set[tuple[datetime, str]]) -> Moment:
    time = parse_time(body.timestamp)
    metrics = {k: v for k, v in body.metrics.items() if (time, k) not in known}
    new = body.model_copy(update={"metrics": metrics})
    update = updates.metric_update(new) if metrics else None
    return Moment(update, body.arrival, microseconds(time))


def _news(alert: Alert) -> list[AlertNews]:
    """An alert is news when it is raised, and again when it recovers."""
    raised = AlertNews.model_validate({**alert.model_dump(), "at": alert.raised_at})
    if alert.recovered_at is None:
        return [raised]
    over = {
        "type": f"{alert.type}_recovered", "severity": "info", "message": alert.recovery,
        "at": alert.recovered_at,
    }  # fmt: skip
    return [raised, raised.model_copy(update=over)]


def _arrival(news: AlertNews) -> int:
    """Among samples, which have the time of their arrival in this form."""
    return microseconds(news.at) * 256 if news.at else 0
