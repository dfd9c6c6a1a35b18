"""The service's handling of TimescaleDB, tested without the extension."""

from typing import Any

import psycopg
import pytest

from common import postgres
from metrics import rollups

from . import conftest
from .conftest import Place, connected, has_timescale


@pytest.mark.parametrize(
    ("version", "old"), [("2.9.3", True), ("2.22.1", True), ("2.23.0", False), ("3.1.0", False)]
)
async def test_a_version_that_would_leave_samples_uncompressed_stops_the_migration(
    empty: Place,
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
        with pytest.raises(psycopg.Error) as refused:
            await connection.execute("select tune_storage()")
        if old:
            assert f"TimescaleDB {version} is too old: install 2.23 or newer" in str(refused.value)
        else:
            # The version is accepted, and the aggregates to tune are plain tables here.
            assert '"hours" is not a materialized view' in str(refused.value)


async def test_a_drop_blocked_by_a_policy_is_retried_a_limited_number_of_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without a limit, a test whose statement always fails would never end."""
    monkeypatch.setattr(conftest, "DROP_PAUSE_S", 0.0)
    busy = Busy(3, psycopg.errors.InternalError_)
    await conftest.drop(busy, "drop table x")
    assert (busy.left, busy.executed) == (0, 1)
    busy = Busy(1_000, psycopg.errors.InternalError_)
    with pytest.raises(psycopg.errors.InternalError_):
        await conftest.drop(busy, "drop table x")
    assert busy.left == 1_000 - conftest.MAX_DROPS


class Busy:
    """A fake connection that refuses a number of statements, as while a policy is running."""

    def __init__(
        self,
        refusals: int,
        error: type[psycopg.Error] = psycopg.errors.LockNotAvailable,
    ) -> None:
        self.left = refusals
        self.error = error
        self.executed = 0

    async def execute(self, *_: Any) -> None:
        if self.left:
            self.left -= 1
            raise self.error("a policy is at work")
        self.executed += 1


async def test_a_refresh_waits_for_a_policy_that_refreshes_the_same_days(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rollups, "PAUSE_S", 0.0)
    busy = Busy(3)
    await rollups.TimescaleRollups(busy, "public")._refresh("hours", None, None)  # type: ignore[arg-type]
    assert busy.executed == 1
    busy = Busy(1_000)
    with pytest.raises(psycopg.errors.LockNotAvailable):
        await rollups.TimescaleRollups(busy, "public")._refresh("hours", None, None)  # type: ignore[arg-type]
