"""Descriptions of metrics by their accounts, as stored."""

import math
import time
from collections.abc import Mapping

import numpy as np

from common.contracts.recording import MetricDescription, impossible
from common.errors import InvalidRequest
from common.postgres import Database
from metrics.batch import Batch
from metrics.units import parse_descriptions

READ = "select metric, kind, unit, more_is_better from descriptions where account = %s"
STORE = """
insert into descriptions (account, metric, kind, unit, more_is_better)
select %s, * from unnest(%s::text[], %s::text[], %s::text[], %s::boolean[]) order by 1, 2
on conflict (account, metric) do update
set kind = excluded.kind, unit = excluded.unit, more_is_better = excluded.more_is_better
where (descriptions.kind, descriptions.unit, descriptions.more_is_better)
    is distinct from (excluded.kind, excluded.unit, excluded.more_is_better)
"""
# Time after which a replica follows what another one stored, if it missed the event.
DESCRIPTIONS_LIFETIME_S = 60.0
# Accounts whose descriptions are cached; the longest unrenewed are evicted first.
MAX_CACHED_ACCOUNTS = 20_000


class Descriptions:
    """A cache of the descriptions of each account's metrics."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._cached: dict[str, tuple[float, dict[str, MetricDescription]]] = {}

    async def get(self, account: str) -> Mapping[str, MetricDescription]:
        """Return the descriptions of an account's metrics, by name."""
        read, descriptions = self._cached.get(account, (-math.inf, {}))
        return (
            descriptions
            if read > time.monotonic() - DESCRIPTIONS_LIFETIME_S
            else await self.newest(account)
        )

    async def newest(self, account: str) -> Mapping[str, MetricDescription]:
        """Read the descriptions from the database."""
        # Still there after the read, unless what is read may be older than a change.
        reading = (-math.inf, self._cached.get(account, (0.0, {}))[1])
        self._remember(account, reading)
        async with self.database.connection() as connection:
            rows = await (await connection.execute(READ, [account])).fetchall()
        descriptions = parse_descriptions(rows)
        if self._cached.get(account) is reading:
            self._remember(account, (time.monotonic(), descriptions))
        return descriptions

    def forget(self, account: str) -> None:
        """Evict an account's descriptions."""
        self._cached.pop(account, None)

    def forget_all(self) -> None:
        """Evict the descriptions of all accounts."""
        self._cached.clear()

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
        known = {**await self.get(content.account), **described}
        for number, (_, metric) in enumerate(content.pairs) if known else ():
            if metric in known:
                values = content.value[content.pair == number]
                for value in (float(np.min(values)), float(np.max(values))):
                    if fault := impossible(metric, value, known[metric]):
                        raise InvalidRequest(fault, fields=[{"path": metric, "message": fault}])

    async def store(self, account: str, described: Mapping[str, MetricDescription]) -> bool:
        """Store the descriptions in a call, in place of earlier ones of the same metrics.

        Return whether anything changed.
        """
        if not described:
            return False
        columns = [
            list(described),
            [one.kind for one in described.values()],
            [one.unit for one in described.values()],
            [one.more_is_better for one in described.values()],
        ]
        async with self.database.connection() as connection:
            cursor = await connection.execute(STORE, [account, *columns])
        return cursor.rowcount > 0

    def _remember(self, account: str, read: tuple[float, dict[str, MetricDescription]]) -> None:
        self._cached.pop(account, None)
        self._cached[account] = read
        while len(self._cached) > MAX_CACHED_ACCOUNTS:
            del self._cached[next(iter(self._cached))]
