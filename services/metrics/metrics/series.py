"""A series is one metric of one model of one account, known to the database by a number."""

from collections.abc import Iterable

from common.errors import InvalidRequest, NotFound
from common.postgres import Connection, Database

# Models remembered by each replica; the oldest are forgotten first.
REMEMBERED = 20_000

Pair = tuple[str, str]


class Series:
    """The numbers of series. They never change, so they are remembered.

    Args:
        most: how many an account may have.
    """

    def __init__(self, database: Database, most: int) -> None:
        self.database = database
        self.most = most
        self._known: dict[Pair, dict[str, int]] = {}

    async def of_model(self, connection: Connection, account: str, model: str) -> dict[str, int]:
        """The numbers of a model's metrics, as they are now.

        Raises:
            NotFound: the account has recorded nothing of it, whoever else may have.
        """
        cursor = await connection.execute(
            "select metric, id from series where account = %s and model = %s order by id",
            [account, model],
        )
        numbers: dict[str, int] = dict(await cursor.fetchall())
        if not numbers:
            raise NotFound("nothing has been recorded for this model")
        return numbers

    async def number(self, account: str, pairs: list[Pair]) -> list[int]:
        """The numbers of (model, metric) pairs; those that are new are made.

        Raises:
            InvalidRequest: the account would have more than it may; none is made then.
        """
        missing = [pair for pair in pairs if self._find(account, pair) is None]
        if missing:
            await self._load(account, missing)
        numbers = [self._find(account, pair) for pair in pairs]
        return [number for number in numbers if number is not None]

    def _find(self, account: str, pair: Pair) -> int | None:
        model, metric = pair
        known = self._known.get((account, model))
        return known.get(metric) if known else None

    async def _load(self, account: str, pairs: list[Pair]) -> None:
        models, metrics = [list(column) for column in zip(*pairs, strict=True)]
        async with self.database.connection() as connection:
            # One after the other for each account, so that the count is right.
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
            if rows[0][3] > self.most:
                raise InvalidRequest(
                    f"an account may record {self.most} series (a metric of a model), and this"
                    " would be more; use fewer different model ids or metric names",
                    limit=self.most,
                )
        self._remember(account, ((model, metric, number) for model, metric, number, _ in rows))

    def _remember(self, account: str, rows: Iterable[tuple[str, str, int]]) -> None:
        for model, metric, number in rows:
            self._known.setdefault((account, model), {})[metric] = number
        while len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
