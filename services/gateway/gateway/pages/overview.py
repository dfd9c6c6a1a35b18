"""The dashboard's first page: next steps and latest events."""

import asyncio

from fastapi.responses import Response

from common.contracts.alerts import AlertsRequest
from common.contracts.benchmarking import RunsRequest
from gateway.pages import report
from gateway.pages.page import Page
from gateway.pages.visit import Visit
from gateway.pages.visits import Visits

SHOWN = 5


class OverviewPages:
    def __init__(self, visits: Visits) -> None:
        self.visits = visits

    @Page("GET", "/dashboard")
    async def show(self, visit: Visit) -> Response:
        # Each part is independent: an unavailable service removes only its own part.
        (keys, _), (runs, runs_error), (alerts, alerts_error) = await asyncio.gather(
            self.visits.try_to(visit, "list_keys"),
            self.visits.try_to(visit, "list_benchmarks", RunsRequest(limit=SHOWN)),
            self.visits.try_to(visit, "list_alerts", AlertsRequest(open_only=True, limit=SHOWN)),
        )
        return self.visits.show(
            "overview.html",
            visit.request,
            keys=keys.keys if keys else None,
            runs=[(run, report.figures(run)) for run in runs.runs] if runs else [],
            runs_error=runs_error,
            alerts=alerts.alerts if alerts else [],
            alerts_error=alerts_error,
        )
