"""Messages of runs in the job queue: which are due, which were lost or dead-lettered.

Only a few waiting runs of a class have a message in the queue, which hands
them out in their order; the others wait in the database, where the order is by
turns. A message is posted for the next one whenever a worker takes one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarker.turns import TURNS, workers_present
from common.contracts.measuring import Class, Measurement
from common.postgres import Connection, Database
from common.unreadable import Unreadable

# Messages of waiting runs in the queue, of each class; as many as there are workers, if more.
MIN_POSTED = 2
# A run fails once this many of its messages have been lost or dead-lettered.
MAX_POSTINGS = 10


@dataclass(frozen=True)
class Posting:
    """A message of a run; `number` counts those of the run from 0."""

    id: str
    worker_class: Class
    number: int
    sequence: int | None
    work: Measurement


class Postings:
    def __init__(self, database: Database) -> None:
        self.database = database
        self.unreadable = Unreadable("job")

    async def due(self, worker_class: Class) -> list[Posting]:
        """Return the runs whose message has to be posted now, in the order of their turns."""
        async with self.database.connection() as connection:
            lost = await self._read(
                connection,
                "select id, worker_class, published, sequence, work from runs"
                " where worker_class = %(worker_class)s and state = 'running' and sequence is null",
                {"worker_class": worker_class},
            )
            present = await workers_present(connection, worker_class)
            cursor = await connection.execute(
                "select count(*) from runs where worker_class = %s and state = 'queued'"
                " and sequence is not null",
                [worker_class],
            )
            [posted] = await cursor.fetchone() or (0,)
            room = max(present, MIN_POSTED) - posted
            if room <= 0:
                return lost
            return lost + await self._read(
                connection,
                f"{TURNS} select id, runs.worker_class, published, runs.sequence, work"  # noqa: S608  (constants)
                " from turns join runs using (id) where turns.state = 'queued'"
                " and turns.sequence is null and not (id = any(%(unreadable)s))"
                " order by position limit %(room)s",
                {
                    "worker_class": worker_class,
                    "room": room,
                    "unreadable": self.unreadable.ids,
                },
            )

    async def posted(self) -> list[Posting]:
        """Return the unfinished runs whose message should be in the queue."""
        async with self.database.connection() as connection:
            return await self._read(
                connection,
                "select id, worker_class, published, sequence, work from runs"
                " where state in ('queued', 'running') and sequence is not null"
                " order by created_at",
                {},
            )

    async def _read(
        self, connection: Connection, query: str, values: dict[str, Any]
    ) -> list[Posting]:
        """Return the rows of a query, except those that this version cannot read."""
        cursor = await connection.execute(query.encode(), values)
        postings = []
        for run, worker_class, number, sequence, row in await cursor.fetchall():
            work = self.unreadable.read(run, partial(Measurement.model_validate, row))
            if work is not None:
                postings.append(Posting(run, worker_class, number, sequence, work))
        return postings

    async def lost(self, posting: Posting) -> bool:
        """Note that a message vanished; False if the run is finished, or it was noted already."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update runs set published = published + 1, sequence = null"
                " where id = %s and published = %s and state in ('queued', 'running')",
                [posting.id, posting.number],
            )
            return cursor.rowcount > 0

    async def record(self, posting: Posting, sequence: int) -> None:
        """Remember where in the queue the message is."""
        async with self.database.connection() as connection:
            await connection.execute(
                "update runs set sequence = %s, published_at = now()"
                " where id = %s and published = %s",
                [sequence, posting.id, posting.number],
            )
