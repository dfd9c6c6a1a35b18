"""What somebody has to look after: messages in the queue, figures on their way, workers."""

from dataclasses import dataclass
from datetime import UTC, timedelta

from psycopg.types.json import Jsonb

from common.contracts.measuring import Announcement, Class, Measurement
from common.contracts.monitoring import Record
from common.postgres import Database

# A worker that has not been heard of for so long is gone.
PRESENT = timedelta(seconds=60)
# Each is a module's files, some 45 kB.
TRIALS_KEPT = timedelta(days=30)


@dataclass(frozen=True)
class Posting:
    """A run whose message has to be in the queue: `number` counts its messages from 0."""

    id: str
    worker_class: Class
    number: int
    sequence: int | None
    work: Measurement


@dataclass(frozen=True)
class Letter:
    """Figures of a run for the metrics service, as an account's own record."""

    number: int
    account: str
    run_id: str
    record: Record


class Upkeep:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def unfinished(self) -> list[Posting]:
        """Runs whose message ought to be in the queue."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select id, worker_class, published, sequence, work from runs"
                " where state in ('queued', 'running') order by created_at"
            )
            return [
                Posting(run, worker_class, number, sequence, Measurement.model_validate(work))
                for run, worker_class, number, sequence, work in await cursor.fetchall()
            ]

    async def lost(self, posting: Posting) -> Posting | None:
        """Count a message that vanished; None if the run is over, or it was counted already."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "update runs set published = published + 1, sequence = null"
                " where id = %s and published = %s and state in ('queued', 'running')",
                [posting.id, posting.number],
            )
            if cursor.rowcount == 0:
                return None
        return Posting(posting.id, posting.worker_class, posting.number + 1, None, posting.work)

    async def posted(self, posting: Posting, sequence: int) -> None:
        async with self.database.connection() as connection:
            await connection.execute(
                "update runs set sequence = %s, published_at = now()"
                " where id = %s and published = %s",
                [sequence, posting.id, posting.number],
            )

    async def forget_trials(self) -> int:
        """Modules that were tried long ago; whoever has one does not need it here again.

        Returns:
            How many there were.
        """
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "delete from runs where kind = 'verify' and created_at < now() - %s", [TRIALS_KEPT]
            )
            return cursor.rowcount

    async def outbox(self) -> list[Letter]:
        """Records that the metrics service has not confirmed, oldest first."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select outbox.id, outbox.account, run_id, record, model_id, finished_at"
                " from outbox join runs on runs.id = run_id order by outbox.id limit 100"
            )
            return [
                Letter(
                    number,
                    account,
                    run,
                    Record(model_id=model, timestamp=finished.astimezone(UTC), metrics=metrics),
                )
                for number, account, run, metrics, model, finished in await cursor.fetchall()
            ]

    async def delivered(self, letter: Letter) -> None:
        async with self.database.connection() as connection:
            await connection.execute("delete from outbox where id = %s", [letter.number])

    async def announce(self, announcement: Announcement) -> None:
        async with self.database.connection() as connection:
            await connection.execute(
                "insert into workers values (%s, %s, %s, now()) on conflict (worker) do update"
                " set facts = excluded.facts, seen_at = now()",
                [
                    announcement.worker,
                    announcement.device_class,
                    Jsonb(announcement.model_dump(mode="json", by_alias=True)),
                ],
            )
            await connection.execute("delete from workers where seen_at < now() - interval '1 day'")

    async def workers(self) -> list[Announcement]:
        """Those that are there now."""
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select facts from workers where seen_at > now() - %s", [PRESENT]
            )
            return [Announcement.model_validate(row[0]) for row in await cursor.fetchall()]
