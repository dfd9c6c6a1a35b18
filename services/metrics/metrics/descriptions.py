"""Descriptions: what accounts say about their own metrics, as stored."""

import time
from collections.abc import Mapping

import numpy as np

from common.contracts.recording import MetricDescription, impossible
from common.errors import InvalidRequest
from common.postgres import Database
from metrics.batch import Batch

READ = "select metric, kind, unit, more_is_better from descriptions where account = %s"
STORE = """
insert into descriptions (account, metric, kind, unit, more_is_better)
select %s, * from unnest(%s::text[], %s::text[], %s::text[], %s::boolean[]) order by 1, 2
on conflict (account, metric) do update
set kind = excluded.kind, unit = excluded.unit, more_is_better = excluded.more_is_better
"""
# Time after which a replica follows what another one stored.
RENEW_S = 60.0
# Accounts whose descriptions are cached; the longest unrenewed are evicted first.
MAX_ACCOUNTS = 20_000


class Descriptions:
    """The descriptions of each account's metrics, cached for a minute."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._known: dict[str, tuple[float, dict[str, MetricDescription]]] = {}

    async def of(self, account: str) -> Mapping[str, MetricDescription]:
        """Return the descriptions of an account's metrics, by name."""
        read, found = self._known.get(account, (0.0, None))
        if found is None or read < time.monotonic() - RENEW_S:
            return await self.newest(account)
        return found

    async def newest(self, account: str) -> Mapping[str, MetricDescription]:
        """Return the descriptions as they are now, also those that another replica stored."""
        async with self.database.connection() as connection:
            rows = await (await connection.execute(READ, [account])).fetchall()
        found = {
            metric: MetricDescription.model_construct(kind=kind, unit=unit, more_is_better=better)
            for metric, kind, unit, better in rows
        }
        self._remember(account, found)
        return found

    async def check(self, content: Batch, described: Mapping[str, MetricDescription]) -> None:
        """Refuse descriptions without values, and values that a metric cannot have.

        Raises:
            InvalidRequest: names the metric.
        """
        # So that an account has no more descriptions than series.
        if lacking := described.keys() - {metric for _, metric in content.pairs}:
            name = min(lacking)
            path = f"descriptions.{name}"
            advice = "no record of this call has this metric; describe metrics beside their values"
            raise InvalidRequest(f"{path}: {advice}", fields=[{"path": path, "message": advice}])
        known = {**await self.of(content.account), **described}
        for number, (_, metric) in enumerate(content.pairs) if known else ():
            if metric in known:
                values = content.value[content.pair == number]
                for value in (float(np.min(values)), float(np.max(values))):
                    if fault := impossible(metric, value, known[metric]):
                        raise InvalidRequest(fault, fields=[{"path": metric, "message": fault}])

    async def store(self, account: str, described: Mapping[str, MetricDescription]) -> None:
        """Store what a call describes, in place of what earlier ones said of the same metrics."""
        if described:
            known = {**await self.of(account), **described}
            await self._store(account, described)
            self._remember(account, known)

    async def _store(self, account: str, described: Mapping[str, MetricDescription]) -> None:
        columns = [
            list(described),
            [one.kind for one in described.values()],
            [one.unit for one in described.values()],
            [one.more_is_better for one in described.values()],
        ]
        async with self.database.connection() as connection:
            await connection.execute(STORE, [account, *columns])

    def _remember(self, account: str, found: dict[str, MetricDescription]) -> None:
        self._known.pop(account, None)
        self._known[account] = time.monotonic(), found
        while len(self._known) > MAX_ACCOUNTS:
            del self._known[next(iter(self._known))]
