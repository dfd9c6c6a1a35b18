"""The workers that are present, by their latest announcements."""

from psycopg.types.json import Jsonb

from benchmarker.turns import MAX_HEARTBEAT_AGE
from common.contracts.measuring import Announcement
from common.postgres import Database


class Fleet:
    def __init__(self, database: Database) -> None:
        self.database = database

    async def record(self, announcement: Announcement) -> None:
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

    async def present(self) -> list[Announcement]:
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                "select facts from workers where seen_at > now() - %s", [MAX_HEARTBEAT_AGE]
            )
            return [Announcement.model_validate(row[0]) for row in await cursor.fetchall()]
