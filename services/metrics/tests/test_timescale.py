"""The service's handling of TimescaleDB, tried without the extension."""

from typing import Any

import psycopg
import pytest

from common import postgres
from metrics import rollups

from .conftest import Place
from .test_storage import connected, empty, has_timescale  # noqa: F401  (a fixture)


@pytest.mark.parametrize(
    ("version", "old"), [("2.9.3", True), ("2.22.1", True), ("2.23.0", False), ("3.1.0", False)]
)
async def test_a_version_that_would_leave_samples_uncompressed_stops_the_migration(
    empty: Place,  # noqa: F811
    version: str,
    old: bool,
) -> None:
    async with postgres.connect(empty.url, empty.schema, "metrics"), connected(empty) as connection:
        if await has_timescale(connection):
            pytest.skip("the server has a version of its own")
        # As the database looks with that version.
        await connection.execute("drop view recorded; alter table samples rename to before")
        await connection.execute("create table samples (series integer)")
        await connection.execute(
            "create or replace function timescale_schema() returns text language sql stable"
            " return 'public'"
        )
        await connection.execute(
            "create view pg_extension as select 'timescaledb'::name as extname,"
            f" '{version}'::text as extversion"
        )
        await connection.execute(f"set search_path = {empty.schema}, pg_catalog")
        fault = ""
        try:
            await connection.execute("select tune_storage()")
        except psycopg.Error as error:  # there is no aggregate to tune, either
            fault = str(error)
        assert ("is too old: install 2.23 or newer" in fault) == old


class Busy:
    """A connection on which a policy of the database is refreshing for a while."""

    def __init__(self, refusals: int) -> None:
        self.left = refusals
        self.refreshed = 0

    async def execute(self, *_: Any) -> None:
        if self.left:
            self.left -= 1
            raise psycopg.errors.LockNotAvailable("a concurrent refresh is in progress")
        self.refreshed += 1


async def test_a_refresh_waits_for_a_policy_that_refreshes_the_same_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollups, "PAUSE_S", 0.0)
    busy = Busy(3)
    await rollups.TimescaleRollups(busy, "public")._refresh("hours", None, None)  # type: ignore[arg-type]
    assert busy.refreshed == 1
    busy = Busy(1_000)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        await rollups.TimescaleRollups(busy, "public")._refresh("hours", None, None)  # type: ignore[arg-type]
