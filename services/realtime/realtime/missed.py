"""What happened while a client was away, from the tables that nothing is lost from."""

from collections.abc import Iterator
from datetime import UTC, datetime

from common.bus import Bus
from common.contracts.monitoring import (
    HISTORY,
    LIST_ALERTS,
    Alert,
    AlertNews,
    AlertsRequest,
    HistoryRequest,
    MetricUpdate,
    parse_time,
)
from realtime import update as updates
from realtime.client import Client
from realtime.topics import Account, Topic
from realtime.update import Update

# Moments of one model that are told afterwards; who missed more is told that,
# and has /monitor for it.
MOST_MOMENTS = 1_000
ALERTS_A_PAGE, MOST_ALERTS = 200, 1_000


async def tell(
    bus: Bus, client: Client, account: Account, topic: Topic, *, since: datetime
) -> bool:
    """Send what happened after `since`, in order, and nothing twice; then what came meanwhile.

    The client is held (`Topics.join`), so that what happens now comes after.

    Returns:
        False if there was more than is told; then it was the newest.

    Raises:
        ServiceError: it cannot be had now; the client hears what happens from now on.
    """
    member = topic.members[client]
    try:
        history = await bus.call(
            HISTORY,
            HistoryRequest(
                model_id=topic.model,
                since=since,
                metrics=sorted(member.wanted) if member.wanted else None,
                most=MOST_MOMENTS,
            ),
        )
        alerts = await _alerts(bus, topic.model, since)
        heard = {(parse_time(b.timestamp), name) for b in topic.heard(member) for name in b.metrics}
        moments = [*_not_heard(history.updates, since, heard)]
        moments += _incidents(alerts, since, set(account.alerts))
        for _, update in sorted(moments, key=lambda moment: moment[0]):
            await client.has_room()
            client.keep(update)
    finally:
        held, member.held = member.held or [], None
        for update in held:
            client.keep(update)
    return history.complete


def _not_heard(
    recorded: list[MetricUpdate], since: datetime, heard: set[tuple[datetime, str]]
) -> Iterator[tuple[datetime, Update]]:
    for body in recorded:
        at = parse_time(body.timestamp)
        metrics = {k: v for k, v in body.metrics.items() if (at, k) not in heard}
        if metrics and at > since:
            yield at, updates.metric_update(body.model_copy(update={"metrics": metrics}))


async def _alerts(bus: Bus, model: str, since: datetime) -> list[Alert]:
    """Raised or recovered after `since`, newest first."""
    found: list[Alert] = []
    before: str | None = None
    while len(found) < MOST_ALERTS:
        request = AlertsRequest(model_id=model, before=before, limit=ALERTS_A_PAGE)
        page = (await bus.call(LIST_ALERTS, request)).alerts
        found += [a for a in page if a.raised_at > since or (a.recovered_at or since) > since]
        if len(page) < ALERTS_A_PAGE or page[-1].raised_at <= since:
            break
        before = page[-1].id
    return found


def _incidents(
    alerts: list[Alert], since: datetime, heard: set[tuple[str, str]]
) -> Iterator[tuple[datetime, Update]]:
    """An alert is news when it is raised, and again when it recovers."""
    for alert in alerts:
        for at, type_ in (
            (alert.raised_at, alert.type),
            (alert.recovered_at, f"{alert.type}_recovered"),
        ):
            if at is not None and at > since and (alert.id, type_) not in heard:
                news = AlertNews(
                    id=alert.id,
                    model_id=alert.model_id,
                    type=type_,
                    message=alert.message,
                    severity=alert.severity,
                )
                yield at.astimezone(UTC), updates.alert(news)
