"""Delivery of alerts to the webhooks service, repeated until confirmed.

The alert's own row says what was confirmed, so nothing is lost with a process;
the webhooks service counts a repeated one once.
"""

from functools import partial
from typing import Any

from common.background import Repeated
from common.bus import Bus
from common.contracts.alerts import Alert
from common.contracts.webhooks import NOTE, EventType, Occurrence, Occurrences
from common.postgres import Database
from common.unreadable import Unreadable
from metrics.incidents import ALERT_COLUMNS, alert_of

MAX_ALERTS = 40
# Max delay of an alert that another replica raised, or the webhooks service missed.
DELIVERY_PERIOD_S = 10.0
UNNOTED = f"""
select account, noted, {ALERT_COLUMNS} from alerts
where (noted < 1 or (noted < 2 and recovered_at is not null)) and not (id = any(%s))
order by number limit %s
"""  # noqa: S608  (constants)
NOTED = """
update alerts set noted = greatest(alerts.noted, new.noted)
from unnest(%s::text[], %s::smallint[]) as new (id, noted) where alerts.id = new.id
"""


class Notices:
    def __init__(self, database: Database, bus: Bus) -> None:
        self.database = database
        self.bus = bus
        self.unreadable = Unreadable("alert")
        self.delivery = Repeated(self.deliver_all, DELIVERY_PERIOD_S)

    async def deliver_all(self) -> None:
        """Deliver all unconfirmed alerts.

        Raises:
            Unavailable: the webhooks service is unavailable; the next round retries.
        """
        while await self.deliver() == MAX_ALERTS:
            pass

    async def deliver(self) -> int:
        """Deliver the oldest unconfirmed alerts; return how many were read.

        Raises:
            Unavailable: the webhooks service is unavailable; the next round retries.
        """
        async with self.database.connection() as connection:
            rows = await (
                await connection.execute(UNNOTED, [self.unreadable.ids, MAX_ALERTS])
            ).fetchall()
        occurrences: list[Occurrence] = []
        confirmed: dict[str, int] = {}
        for account, noted, *columns in rows:
            alert = self.unreadable.read(columns[0], partial(alert_of, columns))
            if alert is None:
                continue
            if noted < 1:
                occurrences.append(_occurrence(account, "alert.raised", alert))
            if alert.recovered_at:
                occurrences.append(_occurrence(account, "alert.recovered", alert))
            confirmed[alert.id] = 2 if alert.recovered_at else 1
        if not occurrences:
            return len(rows)
        await self.bus.call(NOTE, Occurrences(occurrences=occurrences))
        async with self.database.connection() as connection:
            await connection.execute(NOTED, [list(confirmed), list(confirmed.values())])
        return len(rows)


def _occurrence(account: str, event: EventType, alert: Alert) -> Occurrence:
    raised = event == "alert.raised"
    if raised:  # the alert as it was then, even if it has recovered meanwhile
        alert = alert.model_copy(update={"recovered_at": None, "recovery": None})
    data: dict[str, Any] = alert.model_dump(mode="json", by_alias=True)
    return Occurrence(
        id=f"msg_{alert.id}_{event.removeprefix('alert.')}",
        account=account,
        type=event,
        at=alert.recovered_at or alert.raised_at,
        data=data,
    )
