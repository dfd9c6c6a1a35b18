"""Usage page: the rest of the account's limits, and its keys' requests and errors by day."""

import asyncio
from dataclasses import dataclass

from fastapi.responses import Response

from common.contracts.benchmarking import RUN_LIMITS, RunLimit, RunLimitsRequest
from common.contracts.recording import SAMPLE_BYTES
from common.errors import ServiceError
from gateway.keyring import MAX_KEYS, KeyRing
from gateway.limits import Standing
from gateway.pages import wording
from gateway.pages.page import Page
from gateway.pages.visit import Visit
from gateway.pages.visits import Visits
from gateway.usage import KINDS, UsageRequest

# Bounds of the table: a month, and as many rows as a page can show.
DAYS, MAX_ROWS = 30, 200
NAMES = {
    "api": "Requests and pages",
    "generate": "Generations and downloads",
    "benchmark": "Benchmark runs",
    "verify": "Verified modules",
}
SPANS = {60: "in any minute", 3600: "in any hour"}


@dataclass(frozen=True)
class Limit:
    """A limit: how much is `left`, and seconds until its `reset`; None where unknown or unused."""

    name: str
    limit: int
    span: str
    left: int | None
    reset: int | None


class UsagePages:
    def __init__(self, visits: Visits, keyring: KeyRing) -> None:
        self.visits = visits
        self.bus = keyring.bus

    @Page("GET", "/dashboard/usage")
    async def show(self, visit: Visit) -> Response:
        call = self.visits.operations.call
        keys, used, generate, (runs, runs_error), (storage, _) = await asyncio.gather(
            call(visit, "list_keys"),
            call(visit, "list_usage", UsageRequest(days=DAYS, limit=MAX_ROWS)),
            self._generations(visit.account),
            self._runs(),
            self.visits.try_to(visit, "get_storage"),
        )
        limits = [
            *map(_request_limit, visit.standings),
            *generate,
            *map(_run_limit, runs),
            Limit("API keys", MAX_KEYS, "at a time", MAX_KEYS - len(keys.keys), None),
        ]
        return self.visits.show(
            "usage.html",
            visit.request,
            limits=limits,
            storage=storage,
            sample_bytes=SAMPLE_BYTES,
            runs_error=runs_error,
            used=used.usage,
            days=DAYS,
            kinds=KINDS,
            keys=keys.keys,
        )

    async def _generations(self, account: str) -> list[Limit]:
        limits = self.visits.guards.limits
        policy = limits.policies.get("generate")
        if policy is None:
            return []
        standing = await limits.read(account, policy.name)
        if standing is None:
            return [Limit(NAMES[policy.name], policy.limit, _span(policy.window), None, None)]
        return [_request_limit(standing)]

    async def _runs(self) -> tuple[list[RunLimit], str]:
        try:
            return (await self.bus.call(RUN_LIMITS, RunLimitsRequest())).limits, ""
        except ServiceError as error:
            return [], wording.sentence(error.message)


def _request_limit(standing: Standing) -> Limit:
    policy = standing.policy
    reset = standing.reset if standing.remaining < policy.limit else None
    name = NAMES.get(policy.name, policy.name)
    return Limit(name, policy.limit, _span(policy.window), standing.remaining, reset)


def _run_limit(runs: RunLimit) -> Limit:
    return Limit(NAMES[runs.policy], runs.limit, _span(runs.window), runs.left, runs.reset)


def _span(window: int) -> str:
    return SPANS.get(window, f"in any {window} s")
