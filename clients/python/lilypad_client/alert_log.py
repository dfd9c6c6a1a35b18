"""Changes in an account's list of alerts since the last check."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lilypad_client.resource import Async

if TYPE_CHECKING:
    from lilypad_client import types
    from lilypad_client.alerts import Alerts

PAGE_SIZE = 100


class AlertLog:
    def __init__(self, alerts: Alerts[Async], model_id: str | None) -> None:
        self._alerts = alerts
        self._model_id = model_id
        # Whether each known alert had recovered at the last check; None before the first.
        self._recovered: dict[str, bool] | None = None

    async def changed_alerts(self) -> list[types.Alert]:
        """List alerts raised or recovered since the last check, oldest first.

        The first check returns no alerts.
        """
        known, first = self._recovered or {}, self._recovered is None
        opened = self._alerts.list(model_id=self._model_id, open_only=True, page_size=PAGE_SIZE)
        states = {alert.id: False async for alert in opened}
        # Alerts that recovered since the last check; their times are read from the list of all
        # alerts below.
        ended = {id for id, recovered in known.items() if not recovered and id not in states}
        changed_alerts: list[types.Alert] = []
        index, familiar, old = 0, False, False
        async for alert in self._alerts.list(model_id=self._model_id, page_size=PAGE_SIZE):
            if index and index % PAGE_SIZE == 0:
                # Unknown alerts below a page with a known one date from before the first check.
                old = old or familiar or first
                if old and not ended:
                    break
            index += 1
            recovered = alert.recovered_at is not None
            familiar = familiar or alert.id in known
            ended.discard(alert.id)
            if alert.id not in known and old:
                continue
            if not first and known.get(alert.id) != recovered:
                changed_alerts.append(alert)
            states[alert.id] = recovered
        self._recovered = states
        changed_alerts.reverse()
        return changed_alerts
