"""What happened while a client was away, from the tables that nothing is lost from."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

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
from realtime.topics import Account, Topic
from realtime.update import Update

# Moments of one model that are told afterwards; who missed more is told that,
# and has /monitor for it.
MOMENTS_A_PAGE, MOST_MOMENTS = 1_000, 10_000
ALERTS_A_PAGE, MOST_ALERTS = 200, 1_000


@dataclass(slots=True)
class Moment:
    """Something that was missed; `at` and `arrival` are those of a sample, or 0 of an alert."""

    order: tuple[int, int]
    update: Update
    arrival: int = 0
    at: int = 0
    alerted: datetime | None = None


async def tell(
    bus: Bus, client: Client, account: Account, topic: Topic, *, since: datetime | Cursor
) -> bool:
    """Send what happened after `since`, in order, and nothing twice; then what came meanwhile.

    The client is held (`Topics.join`), so that what happens now comes after.
    `since` is how far it has heard; if it does not know better a time: that of
    the last update it got, or when it was still there.

    Returns:
        False if there was more than is told; then it was the newest.

    Raises:
        ServiceError: it cannot be had now; the client hears what happens from now on.
    """
    member = topic.members[client]
    try:
        recorded, heard, complete = await _recorded(bus, topic.model, member.wanted, since)
        cursor = Cursor(heard.floor, heard.alerted, heard.places)
        alerts = await _alerts(bus, topic.model, cursor.alerted)
        moments = [*_not_heard(recorded, topic.heard(member))]
        moments += _incidents(alerts, cursor.alerted, account.heard(client))
        for moment in sorted(moments, key=lambda moment: moment.order):
            await client.has_room()
            for told in (cursor, topic.cursor):
                told.hear(moment.arrival, moment.at)
                told.hear_alert(moment.alerted)
            client.keep(moment.update.marked(cursor.text) if member.marked else moment.update)
    finally:
        held, member.held = member.held or [], None
        for update in held:
            client.keep(update)
    return complete


async def begin(bus: Bus, topic: Topic) -> None:
    """Count what is there already as heard, for who wants what happens from now on.

    What is being stored at this moment is not there, and will be heard, or
    missed. Where it cannot be asked, a little of what was before counts as
    missed.
    """
    with contextlib.suppress(ServiceError):
        recorded, _, _ = await _recorded(bus, topic.model, None, Cursor.now())
        for body in recorded:
            topic.cursor.hear(body.arrival, microseconds(parse_time(body.timestamp)))


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


def _not_heard(recorded: list[MetricUpdate], heard: set[tuple[datetime, str]]) -> Iterator[Moment]:
    for body in recorded:
        time = parse_time(body.timestamp)
        metrics = {k: v for k, v in body.metrics.items() if (time, k) not in heard}
        if metrics:
            at = microseconds(time)
            update = updates.metric_update(body.model_copy(update={"metrics": metrics}))
            yield Moment((body.arrival, at), update, arrival=body.arrival, at=at)


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


def _incidents(alerts: list[Alert], since: int, heard: set[tuple[str, str]]) -> Iterator[Moment]:
    """An alert is news when it is raised, and again when it recovers."""
    for alert in alerts:
        raised = AlertNews.model_validate(alert.model_dump())
        over = {"type": f"{alert.type}_recovered", "severity": "info", "message": alert.recovery}
        for at, news in (
            (alert.raised_at, raised),
            (alert.recovered_at, raised.model_copy(update=over)),
        ):
            if at is None or (news.id, news.type) in heard or microseconds(at) <= since:
                continue
            order = (microseconds(at) * 256, 0)
            yield Moment(order, updates.alert(news), alerted=at.astimezone(UTC))
