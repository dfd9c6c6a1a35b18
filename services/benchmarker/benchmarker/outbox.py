"""Delivery of runs' figures to the metrics service, as records of the account.

They are committed with the run's outcome and deleted once the metrics service
has confirmed them, so that none is lost; it ignores duplicates.
"""

from dataclasses import dataclass
from datetime import UTC
from functools import partial

import structlog

from common.bus import Bus
from common.context import Context, current
from common.contracts.recording import RECORD, Record, Samples
from common.errors import ServiceError, Unavailable
from common.postgres import Database
from common.unreadable import Unreadable

log = structlog.get_logger()

MAX_LETTERS = 100


@dataclass(frozen=True)
class Letter:
    number: int
    account: str
    run_id: str
    record: Record


class Outbox:
    def __init__(self, bus: Bus, database: Database) -> None:
        self.bus = bus
        self.database = database
        self.unreadable = Unreadable("letter")

    async def deliver(self, run: str | None = None) -> set[str]:
        """Send the outbox's letters, one record of figures each, to the metrics service.

        Returns:
            The runs whose figures this call has delivered.

        Raises:
            Unavailable: the metrics service is unavailable; the other letters stay in the outbox.
        """
        delivered = set()
        for letter in await self._letters(run):
            token = current.set(Context(account=letter.account))
            try:
                await self.bus.call(RECORD, Samples.from_records([letter.record]))
            except Unavailable:
                raise
            except ServiceError as error:
                log.error("metrics refused", run=letter.run_id, error=error.message)  # noqa: TRY400  (its words say all)
            finally:
                current.reset(token)
            if await self._delete(letter.number):
                delivered.add(letter.run_id)
        return delivered

    async def _letters(self, run: str | None) -> list[Letter]:
        """Return the letters that the metrics service has not confirmed, oldest first."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select outbox.id, outbox.account, run_id, record, model_id, finished_at"
                " from outbox join runs on runs.id = run_id"
                " where (%(run)s::text is null or run_id = %(run)s)"
                " and not (outbox.id = any(%(unreadable)s)) order by outbox.id limit %(max)s",
                {"run": run, "unreadable": self.unreadable.ids, "max": MAX_LETTERS},
            )
            rows = await cursor.fetchall()
        letters = []
        for number, account, run_id, metrics, model, finished in rows:
            moment = finished.astimezone(UTC)
            parse = partial(Record, model_id=model, timestamp=moment, metrics=metrics)
            record = self.unreadable.read(number, parse)
            if record is not None:
                letters.append(Letter(number, account, run_id, record))
        return letters

    async def _delete(self, number: int) -> bool:
        """Delete a letter; return False if another replica has deleted it already."""
        async with self.database.connection() as connection:
            cursor = await connection.execute("delete from outbox where id = %s", [number])
            return cursor.rowcount > 0
