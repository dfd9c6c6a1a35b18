"""Series: metrics of models of accounts, numbered by the database."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from common.contracts.monitoring import ModelsSelection, RecordedModel, RecordedModels
from common.errors import InvalidRequest, NotFound
from common.faults import unknown_before
from common.postgres import Connection, Database
from metrics.nearest import MAX_CHARACTERS, MAX_COMPARED, may_be_misspelt, nearest
from metrics.snapshot import begin_snapshot
from metrics.units import DESCRIBED, parse_descriptions

# Models cached by each replica; the oldest are evicted first.
MAX_CACHED_MODELS = 20_000

OF_MODEL = """
select id, metric, kind, unit, more_is_better from series left join descriptions
    using (account, metric) where account = %s and model = %s order by id
"""

Pair = tuple[str, str]


class Series:
    """A cache of the numbers of series, which never change.

    Args:
        max_series: series that an account may have.
    """

    def __init__(self, database: Database, max_series: int) -> None:
        self.database = database
        self.max_series = max_series
        self._cached: dict[Pair, dict[str, int]] = {}

    @asynccontextmanager
    async def reading(
        self, account: str, model: str, *, snapshot: bool = False
    ) -> AsyncIterator[tuple[Connection, dict[str, int]]]:
        """Borrow a connection for one transaction, and look up the ids of a model's series.

        The metrics' descriptions are `DESCRIBED` from then on. With `snapshot`, all of the
        transaction sees the same data.

        Raises:
            NotFound: the account has recorded no metrics of the model.
        """
        async with self.database.connection() as connection:
            if snapshot:
                await begin_snapshot(connection)
            if numbers := await self.of_model(connection, account, model):
                yield connection, numbers
                return
            known = await _newest(connection, account) if may_be_misspelt(model) else []
        # The comparison takes milliseconds, in which other requests must be answered.
        near = await asyncio.to_thread(nearest, model, known)
        advice = f"did you mean `{near}`?" if near else "check `modelId`"
        raise NotFound(f"no metrics have been recorded for this model; {advice}")

    async def of_model(self, connection: Connection, account: str, model: str) -> dict[str, int]:
        """Read the numbers of a model's series by metric."""
        rows = await (await connection.execute(OF_MODEL, [account, model])).fetchall()
        DESCRIBED.set(parse_descriptions(row[1:] for row in rows))
        return {metric: number for number, metric, *_ in rows}

    async def models(self, account: str, request: ModelsSelection) -> RecordedModels:
        """List a page of the account's models, newest first.

        Raises:
            InvalidRequest: the account has no model with the id `before`.
        """
        async with self.database.connection() as connection:
            if request.model_id is not None:
                metrics = await self.of_model(connection, account, request.model_id)
                found = [RecordedModel(model_id=request.model_id, metrics=sorted(metrics))]
                return RecordedModels(models=found if metrics else [])
            cursor = await connection.execute(
                "select model, array_agg(metric order by metric) from series"
                " where account = %(account)s group by model"
                " having %(before)s::text is null or max(id) < ("
                "  select max(id) from series where account = %(account)s and model = %(before)s)"
                " order by max(id) desc limit %(limit)s",
                {"account": account, "before": request.before, "limit": request.limit + 1},
            )
            rows = await cursor.fetchall()
            if not rows and request.before is not None:
                cursor = await connection.execute(
                    "select from series where account = %s and model = %s limit 1",
                    [account, request.before],
                )
                if await cursor.fetchone() is None:
                    raise unknown_before()
        page = rows[: request.limit]
        return RecordedModels(
            models=[RecordedModel(model_id=model, metrics=metrics) for model, metrics in page],
            next=page[-1][0] if len(rows) > len(page) else None,
        )

    async def number(self, account: str, pairs: list[Pair]) -> list[int]:
        """Return the numbers of (model, metric) pairs; create missing series.

        Raises:
            InvalidRequest: the account would exceed its limit; no series is created.
        """
        missing = [pair for pair in pairs if self._find(account, pair) is None]
        if missing:
            await self._load(account, missing)
        numbers = [self._find(account, pair) for pair in pairs]
        return [number for number in numbers if number is not None]

    def _find(self, account: str, pair: Pair) -> int | None:
        model, metric = pair
        known = self._cached.get((account, model))
        return known.get(metric) if known else None

    async def _load(self, account: str, pairs: list[Pair]) -> None:
        models, metrics = [list(column) for column in zip(*pairs, strict=True)]
        async with self.database.connection() as connection:
            # Serialised per account, so that the count is right.
            await connection.execute(
                "select pg_advisory_xact_lock(hashtext('series'), hashtext(%s))", [account]
            )
            await connection.execute(
                "insert into series (account, model, metric)"
                " select %s, model, metric from unnest(%s::text[], %s::text[]) as p(model, metric)"
                " where not exists (select from series s"
                "  where s.account = %s and s.model = p.model and s.metric = p.metric)",
                [account, models, metrics, account],
            )
            cursor = await connection.execute(
                "select model, metric, id, (select count(*) from series where account = %s)"
                " from series where account = %s and model = any(%s)",
                [account, account, list(set(models))],
            )
            rows = await cursor.fetchall()
            if rows[0][3] > self.max_series:
                raise InvalidRequest(
                    f"an account may record {self.max_series} series (metrics of models); use fewer"
                    " different model ids or metric names",
                    limit=self.max_series,
                )
        self._remember(account, ((model, metric, number) for model, metric, number, _ in rows))

    def _remember(self, account: str, rows: Iterable[tuple[str, str, int]]) -> None:
        for model, metric, number in rows:
            self._cached.setdefault((account, model), {})[metric] = number
        while len(self._cached) > MAX_CACHED_MODELS:
            del self._cached[next(iter(self._cached))]


async def _newest(connection: Connection, account: str) -> list[str]:
    """Read the account's newest models with ids short enough for a comparison."""
    cursor = await connection.execute(
        "select model from series where account = %s and length(model) <= %s"
        " group by model order by max(id) desc limit %s",
        [account, MAX_CHARACTERS, MAX_COMPARED],
    )
    return [name for (name,) in await cursor.fetchall()]
