"""Runs' messages in the job queue: those that are due, posted or lost.

Only a few waiting runs of a class have a message in the queue, which delivers
them in order; the others wait in the database, where tenants take turns
(`benchmarker.turns`). Whenever a worker takes a message, the next run gets one.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

from benchmarker.deliveries import LIVE
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
    """A run's message; `number` counts the run's messages from 0."""

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
        """Return the messages to post: lost ones of running runs, then those next in turn."""
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

    async def posted(self, hearing: dict[str, float]) -> list[Posting]:
        """Return the messages of unfinished runs that should be in the queue.

        A run whose holder reported lately needs none; `hearing` has the values for `LIVE`.
        """
        async with self.database.connection() as connection:
            return await self._read(
                connection,
                "select id, worker_class, published, sequence, work from runs"  # noqa: S608  (constants)
                " where state in ('queued', 'running') and sequence is not null"
                f" and (state = 'queued' or not coalesce({LIVE}, false)) order by created_at",
                hearing,
            )

    async def _read(
        self, connection: Connection, query: str, values: dict[str, Any]
    ) -> list[Posting]:
        """Query postings, except those that this version cannot read."""
        cursor = await connection.execute(query.encode(), values)
        postings = []
        for run, worker_class, number, sequence, row in await cursor.fetchall():
            work = self.unreadable.read(run, partial(Measurement.model_validate, row))
            if work is not None:
                postings.append(Posting(run, worker_class, number, sequence, work))
        return postings

    async def lost(self, posting: Posting) -> bool:
        """Mark a message as lost; return False if it was marked before or its run has finished."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update runs set published = published + 1, sequence = null"
                " where id = %s and published = %s and state in ('queued', 'running')",
                [posting.id, posting.number],
            )
            return cursor.rowcount > 0

    async def record(self, posting: Posting, sequence: int) -> None:
        """Store a message's sequence number in the queue."""
        async with self.database.connection() as connection:
            await connection.execute(
                "update runs set sequence = %s, published_at = now()"
                " where id = %s and published = %s",
                [sequence, posting.id, posting.number],
            )
