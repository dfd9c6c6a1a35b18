"""What happened while a client was away, from the tables that nothing is lost from."""

import contextlib
from collections.abc import Iterator
from datetime import datetime

from common.bus import Bus
from common.contracts.monitoring import (
    HISTORY,
    LIST_ALERTS,
    Alert,
    AlertNews,
    AlertsRequest,
    Heard,
    HistoryRequest,
    MetricUpdate,
    parse_time,
)
from common.errors import ServiceError
from realtime import update as updates
from realtime.client import Client
from realtime.cursor import Cursor, microseconds
from realtime.topics import Alerts, Member, Moment, Topic
from realtime.update import topic_of

# Moments of one model that are told afterwards; who missed more is told that,
# and has /monitor for it.
MOMENTS_A_PAGE, MOST_MOMENTS = 1_000, 10_000
ALERTS_A_PAGE, MOST_ALERTS = 200, 1_000


async def tell(
    bus: Bus, client: Client, heard: Alerts, topic: Topic, *, since: datetime | Cursor, marked: bool
) -> bool:
    """Send what happened after `since`, in order, and nothing twice; then what came meanwhile.

    `since` is how far it has heard; if it does not know better a time: that of
    the last update it got, or when it was still there. `marked`: it wants the
    cursor with everything.

    Returns:
        False if there was more than is told; then it was the newest.

    Raises:
        ServiceError: it cannot be had now; the client hears what happens from now on.
    """
    member = topic.hold(client)
    try:
        recorded, place, complete = await _recorded(bus, topic.model, member.wanted, since)
        cursor = Cursor(place.floor, place.alerted, place.places)
        alerts = await _alerts(bus, topic.model, cursor.alerted)
        moments = [*_samples(recorded, topic.heard(member)), *_incidents(alerts, cursor.alerted)]
        for moment in sorted(moments, key=_order):
            await client.has_room()
            cursor.hear(moment.arrival, moment.at)
            update = moment.update
            if moment.alert is not None:
                cursor.hear_alert(moment.alert.at)
                if not heard.hear(moment.alert):
                    continue
            if update is not None:
                update = update.marked(cursor.text) if marked else update
                client.keep(update, topic_of(topic.model))
        member.told, member.cursor = cursor, cursor if marked else None
    finally:
        topic.release(client, member, heard)
    return complete


async def begin(bus: Bus, topic: Topic, member: Member, heard: Alerts) -> None:
    """Give a cursor to who wants what happens from now on: what is there already counts as heard.

    What is being stored at this moment is not there, and will be heard, or
    missed. Where it cannot be asked, a little of what was before counts as
    missed.
    """
    cursor = member.cursor = Cursor.now()
    for news in heard.of(topic.model):
        cursor.hear_alert(news.at)
    with contextlib.suppress(ServiceError):
        recorded, _, _ = await _recorded(bus, topic.model, None, cursor)
        for body in recorded:
            cursor.hear(body.arrival, microseconds(parse_time(body.timestamp)))


def _order(moment: Moment) -> tuple[int, int]:
    """By arrival, which is a time as well (common.contracts.monitoring.Arrival)."""
    if moment.alert is not None and moment.alert.at is not None:
        return microseconds(moment.alert.at) * 256, 0
    return moment.arrival, moment.at


async def _recorded(
    bus: Bus, model: str, wanted: frozenset[str] | None, since: datetime | Cursor
) -> tuple[list[MetricUpdate], Heard, bool]:
    """The moments after `since`, what that means, and whether these are all.

    Pages come newest first, by the times of the samples.
    """
    found: list[MetricUpdate] = []
    request = HistoryRequest(
        model_id=model,
        since=since if isinstance(since, datetime) else None,
        heard=since.heard if isinstance(since, Cursor) else None,
        metrics=sorted(wanted) if wanted else None,
        most=MOMENTS_A_PAGE,
    )
    while True:
        page = await bus.call(HISTORY, request)
        found[:0] = page.updates
        heard = request.heard or page.heard or Cursor.now().heard
        complete = page.complete or not page.updates
        if complete or len(found) >= MOST_MOMENTS:
            return found, heard, complete
        before = parse_time(page.updates[0].timestamp)
        request = request.model_copy(update={"before": before})


def _samples(recorded: list[MetricUpdate], heard: set[tuple[datetime, str]]) -> Iterator[Moment]:
    for body in recorded:
        time = parse_time(body.timestamp)
        metrics = {k: v for k, v in body.metrics.items() if (time, k) not in heard}
        new = body.model_copy(update={"metrics": metrics})
        update = updates.metric_update(new) if metrics else None
        yield Moment(update, body.arrival, microseconds(time))


async def _alerts(bus: Bus, model: str, since: int) -> list[Alert]:
    """Raised or recovered after `since`, newest first."""
    found: list[Alert] = []
    before: str | None = None
    while len(found) < MOST_ALERTS:
        request = AlertsRequest(model_id=model, before=before, limit=ALERTS_A_PAGE)
        page = (await bus.call(LIST_ALERTS, request)).alerts
        found += [
            alert for alert in page if microseconds(alert.recovered_at or alert.raised_at) > since
        ]
        if len(page) < ALERTS_A_PAGE or microseconds(page[-1].raised_at) <= since:
            break
        before = page[-1].id
    return found


def _incidents(alerts: list[Alert], since: int) -> Iterator[Moment]:
    """An alert is news when it is raised, and again when it recovers."""
    for alert in alerts:
        raised = AlertNews.model_validate({**alert.model_dump(), "at": alert.raised_at})
        over = {
            "type": f"{alert.type}_recovered", "severity": "info", "message": alert.recovery,
            "at": alert.recovered_at,
        }  # fmt: skip
        for news in (raised, raised.model_copy(update=over)):
            if news.at is not None and microseconds(news.at) > since:
                yield Moment(updates.alert(news), alert=news)
