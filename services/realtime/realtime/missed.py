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
MOMENTS_A_PAGE, MOST_MOMENTS = 1_000, 10_000
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
        recorded, complete = await _recorded(bus, topic.model, member.wanted, since)
        alerts = await _alerts(bus, topic.model, since)
        heard = {(parse_time(b.timestamp), name) for b in topic.heard(member) for name in b.metrics}
        moments = [*_not_heard(recorded, since, heard)]
        moments += _incidents(alerts, since, set(account.alerts))
        for _, update in sorted(moments, key=lambda moment: moment[0]):
            await client.has_room()
            client.keep(update)
    finally:
        held, member.held = member.held or [], None
        for update in held:
            client.keep(update)
    return complete


async def _recorded(
    bus: Bus, model: str, wanted: frozenset[str] | None, since: datetime
) -> tuple[list[MetricUpdate], bool]:
    """The moments after `since`, and whether that is all; pages come newest first."""
    found: list[MetricUpdate] = []
    before: datetime | None = None
    while len(found) < MOST_MOMENTS:
        page = await bus.call(
            HISTORY,
            HistoryRequest(
                model_id=model,
                since=since,
                before=before,
                metrics=sorted(wanted) if wanted else None,
                most=MOMENTS_A_PAGE,
            ),
        )
        found[:0] = page.updates
        if page.complete or not page.updates:
            return found, True
        before = parse_time(page.updates[0].timestamp)
    return found, False


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
        raised = AlertNews.model_validate(alert.model_dump())
        over = {"type": f"{alert.type}_recovered", "severity": "info", "message": alert.recovery}
        for at, news in (
            (alert.raised_at, raised),
            (alert.recovered_at, raised.model_copy(update=over)),
        ):
            if at is not None and at > since and (news.id, news.type) not in heard:
                yield at.astimezone(UTC), updates.alert(news)
