"""Usage page: remaining limits of the account, and its keys' requests and errors by day."""

from datetime import UTC, datetime, timedelta

from fastapi import FastAPI
from fastapi.responses import Response

from common.contracts.benchmarking import RunsRequest
from gateway.keyring import KeyRing
from gateway.pages.visit import Visit
from gateway.pages.visits import Visits
from gateway.usage import KINDS, UsageRequest

MAX_RUNS = 100
# Bounds of the table: a month, and as many rows as a page can show.
DAYS, MAX_ROWS = 30, 200


class UsagePages:
    def __init__(self, visits: Visits) -> None:
        self.visits = visits

    async def show(self, visit: Visit) -> Response:
        call = self.visits.operations.call
        keys = (await call(visit, "list_keys")).keys
        used = await call(visit, "list_usage", UsageRequest(days=DAYS, limit=MAX_ROWS))
        runs, away = await self.visits.try_to(visit, "list_benchmarks", RunsRequest(limit=MAX_RUNS))
        begin = datetime.now(UTC) - timedelta(hours=1)
        return self.visits.show(
            "usage.html",
            visit.request,
            standings=visit.standings,
            generate=self.visits.guards.limits.policies.get("generate"),
            runs=sum(run.created_at > begin for run in runs.runs) if runs else None,
            away=away,
            used=used.usage,
            days=DAYS,
            kinds=KINDS,
            keys=keys,
        )


def add(app: FastAPI, visits: Visits, _: KeyRing) -> None:
    visits.add(app, "GET", "/dashboard/usage", UsagePages(visits).show)
