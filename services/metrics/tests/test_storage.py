"""Storage of samples: conversion, rollups and expiry."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from common import postgres
from common.contracts.alerts import AlertsRequest
from common.testing import MemoryBus
from metrics import rollups
from metrics.convert import convert
from metrics.handlers import Handlers

from .conftest import Caller, Place, connected, drop, has_timescale, settled


@contextlib.asynccontextmanager
async def serving(place: Place) -> AsyncIterator[Caller]:
    async with postgres.connect(place.url, place.schema, "metrics") as database:
        handlers = Handlers(database, MemoryBus(), max_series=200)
        work = asyncio.ensure_future(handlers.run())
        yield Caller(handlers)
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await work


def record(days: float, value: float) -> dict[str, Any]:
    when = (datetime.now(UTC) - timedelta(days=days)).isoformat()
    return {"model_id": "m", "timestamp": when, "metrics": {"latency": value}}


async def test_replicas_that_start_simultaneously_migrate_once(empty: Place) -> None:
    async with contextlib.AsyncExitStack() as stack:
        callers = await asyncio.gather(
            *(stack.enter_async_context(serving(empty)) for _ in range(4))
        )
        for n, caller in enumerate(callers):
            caller.account = "a"
            await caller.record(record(n, 1.0))
        answers = [await caller.monitor() for caller in callers]
    assert [answer.statistics["latency"].count for answer in answers] == [4] * 4
    async with serving(empty) as caller:  # and again, once everything exists
        caller.account = "a"
        assert (await caller.monitor()).statistics["latency"].count == 4


async def test_times_are_in_utc_regardless_of_the_servers_time_zone(place: Place) -> None:
    async with connected(place) as connection:
        await connection.execute("alter role current_user set timezone = 'Asia/Kolkata'")
        try:
            async with serving(place) as caller:
                await caller.record({"model_id": "m", "metrics": {"memory_usage": 9.5}})
                await caller.record({"model_id": "m", "metrics": {"memory_limit": 10.0}})
                await caller.record({"model_id": "m", "metrics": {"memory_usage": 9.5}})
                await settled(caller)
                answer = await caller.call(caller.handlers.list_alerts, AlertsRequest())
        finally:
            await connection.execute("alter role current_user reset timezone")
    assert {alert.raised_at.utcoffset() for alert in answer.alerts} == {timedelta()}


async def test_callers_canceled_at_any_moment_leave_connections_unchanged(
    place: Place,
) -> None:
    async with postgres.connect(place.url, place.schema, "metrics", max_size=2) as database:

        async def call() -> None:
            async with database.connection() as connection:
                await connection.execute("select 1")

        for number in range(300):
            asking = [asyncio.ensure_future(call()) for _ in range(3)]
            for _ in range(number % 30):
                await asyncio.sleep(0)
            asking[number % 3].cancel()
            asking[(number + 1) % 3].cancel()
            await asyncio.gather(*asking, return_exceptions=True)
        async with database.connection() as first, database.connection() as other:
            states = {(c.autocommit, c.timeout_s) for c in (first, other)}  # type: ignore[attr-defined]
        assert states == {(False, postgres.ANSWER_TIMEOUT_S)}


async def test_rollups_of_days_are_stored_uncompressed_and_in_their_row_up_to_four_kilobytes(
    empty: Place,
) -> None:
    """Such rows are read faster. Larger days are in the TOAST table, also uncompressed."""
    async with (
        postgres.connect(empty.url, empty.schema, "metrics"),
        connected(empty) as connection,
    ):
        if await has_timescale(connection):
            return  # there, days are an aggregate
        stored = []
        for hours, histogram in ((1_900, 1_900), (9_000, 10), (10, 9_000)):
            await connection.execute("truncate days")
            await connection.execute(
                "insert into days values (1, now(), %s, %s)", [bytes(hours), bytes(histogram)]
            )
            cursor = await connection.execute(
                "select pg_column_compression(hours), pg_column_compression(histogram),"
                " pg_relation_size(reltoastrelid) > 0"
                " from days, pg_class where oid = 'days'::regclass"
            )
            stored += await cursor.fetchall()
    assert stored == [(None, None, False), (None, None, True), (None, None, True)]


async def test_a_late_sample_in_the_columnstore_counts_once(empty: Place) -> None:
    async with serving(empty) as caller, connected(empty) as connection:
        old = [record(20 + n / 1_000, 1.0) for n in range(1_000)]
        await caller.record(*old)
        await connection.execute("update stale set since = '2000-01-01'")
        rolling = await rollups.load(connection)
        while await rolling.advance() or await rolling.repair():
            pass
        if isinstance(rolling, rollups.TimescaleRollups):
            for chosen in ("'samples', interval '7 days'", "'hours'"):
                chunks = f"{rolling.schema}.show_chunks({chosen})"
                cursor = await connection.execute(
                    f"select {rolling.schema}.compress_chunk(chunk) from {chunks} as chunk"
                )
                assert cursor.rowcount
        await caller.record(*old, record(20.5, 5.0))
        assert (await caller.monitor()).statistics["latency"].total == 1_005.0
        await connection.execute("update stale set since = '2000-01-01'")
        while await rolling.repair():
            pass
        assert (await caller.monitor()).statistics["latency"].total == 1_005.0


async def make_plain(connection: Any) -> None:
    """Restore the state of a database without the extension."""
    await drop(
        connection,
        "do $$ begin if timescale_schema() is null then drop table days, hours, samples cascade;"
        " else drop view recorded; drop materialized view days; drop materialized view hours;"
        " drop table samples; end if; end $$",
    )
    cursor = await connection.execute(
        "select pg_get_functiondef(to_regprocedure('timescale_schema()'))"
    )
    [(definition,)] = await cursor.fetchall()
    await connection.execute(
        "create or replace function timescale_schema() returns text language sql return null"
    )
    await connection.execute("select create_storage()")
    await connection.execute(definition)


async def test_a_plain_database_that_gained_the_extension_is_converted(
    empty: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    async with postgres.connect(empty.url, empty.schema, "metrics"), connected(empty) as connection:
        await make_plain(connection)
        cursor = await connection.execute(
            "select count(*) from pg_available_extensions where name = 'timescaledb'"
        )
        available = await cursor.fetchone() == (1,)
        plain = rollups.Rollups(connection)
        async with serving(empty) as caller:
            await caller.record(*(record(n / 100, float(n)) for n in range(5_000)))
            await connection.execute("update stale set since = '2000-01-01'")
            while await plain.repair():
                pass
            before = await caller.monitor()
            status = await convert(empty.url, empty.schema)
            assert status == (0 if available else 1)
            assert ("changed" in capsys.readouterr().err) == (not available)

            async def same() -> None:
                after = await caller.monitor()
                for name, statistics in before.statistics.items():
                    assert after.statistics[name].count == statistics.count
                    assert after.statistics[name].mean == pytest.approx(statistics.mean)
                    assert after.statistics[name].trend == statistics.trend

            await same()
            rolling = await rollups.load(connection) if available else plain
            while await rolling.advance() or await rolling.repair():
                pass
            await same()
            await caller.record(record(20.005, 1.0))
            assert (await caller.monitor()).statistics["latency"].count == 3_001
        if available:
            assert await convert(empty.url, empty.schema) == 0
            assert "already" in capsys.readouterr().out


async def test_a_plain_database_that_gained_the_extension_works_until_it_is_converted(
    empty: Place,
) -> None:
    async with postgres.connect(empty.url, empty.schema, "metrics"), connected(empty) as connection:
        await make_plain(connection)
        # The answer of a server with the extension.
        await connection.execute(
            "create or replace function timescale_schema() returns text language sql stable"
            " return 'public'"
        )
        async with serving(empty) as caller:
            await caller.record(record(3, 1.0))
            await connection.execute("update stale set since = '2000-01-01'")
            rolling = await rollups.load(connection)
            while await rolling.advance() or await rolling.repair():
                pass
            await rolling.forget(400)
            cursor = await connection.execute("select sum(count) from hours")
            assert await cursor.fetchone() == (1,)


async def test_timescaledb_with_only_its_apache_licence_is_not_used(empty: Place) -> None:
    async with postgres.connect(empty.url, empty.schema, "metrics"), connected(empty) as connection:
        if await has_timescale(connection):
            pytest.skip("its licence is set when the server starts")
        await connection.execute(
            "create or replace function timescale_schema() returns text language sql stable"
            " return 'public'"
        )
        await connection.execute("set timescaledb.license = 'apache'")
        await connection.execute("drop table days, hours, samples cascade")
        await connection.execute("select create_storage()")
        kind = "select relkind from pg_class where oid = 'samples'::regclass"
        assert await (await connection.execute(kind)).fetchone() == ("p",)


async def test_only_expired_samples_are_deleted(empty: Place) -> None:
    async with serving(empty) as caller, connected(empty) as connection:
        await caller.record(*(record(days, 1.0) for days in (300, 200.5, 10)))
        for days in (5_000, 500, 460):  # were recent when they were recorded
            await connection.execute(
                "insert into samples (series, at, value)"
                " select id, now() - make_interval(days => %s), 1 from series",
                [days],
            )
        await connection.execute("update stale set since = '2000-01-01'")
        rolling = await rollups.load(connection)
        while await rolling.advance() or await rolling.repair():
            pass
        for kept_days, left in ((470, {300, 200, 10, 460}), (250, {200, 10}), (250, {200, 10})):
            await rolling.forget(kept_days)
            cursor = await connection.execute("select at from samples")
            ages = {(datetime.now(UTC) - at).days for (at,) in await cursor.fetchall()}
            # Samples are dropped by the month or by the week: a few expired ones may stay.
            assert left <= ages
            assert not {days for days in ages if days > kept_days + 31}
        assert (await caller.monitor(days=365)).statistics["latency"].count >= 2
        # The partitions of the coming months exist in advance.
        await caller.record(record(-0.9, 1.0))
        cursor = await connection.execute("select to_regclass('samples_older')")
        if await cursor.fetchone() != (None,):
            assert (await connection.execute("select from samples_older")).rowcount == 0


async def test_the_missing_partition_of_a_month_is_created_later(empty: Place) -> None:
    async with serving(empty) as caller, connected(empty) as connection:
        if isinstance(await rollups.load(connection), rollups.TimescaleRollups):
            pytest.skip("it makes its chunks when they are needed")
        partition = f"samples_{datetime.now(UTC):%Y%m}"
        await connection.execute(f"drop table {partition}")
        await caller.record(record(0, 1.0))
        await connection.execute(
            "insert into samples (series, at, value)"
            " select id, now() - interval '5000 days', 1 from series"
        )
        rolling = await rollups.load(connection)
        for _ in range(2):
            await rolling.forget(400)
            for relation in (partition, "samples"):  # expired samples are deleted
                assert (await connection.execute(f"select from {relation}")).rowcount == 1
        await caller.record(record(-0.001, 1.0))
        assert (await caller.monitor()).statistics["latency"].count == 2


async def test_a_sample_that_arrives_while_its_day_is_rolled_up_is_not_lost(
    empty: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(empty) as caller, connected(empty) as connection:
        await caller.record(record(0.5, 1.0))
        await connection.execute("update stale set since = '2000-01-01'")
        rolling = await rollups.load(connection)
        await rolling.advance()
        unmark = rolling._unmark

        async def record_first(marked: Any) -> None:
            # Rolled up already, and still marked.
            await caller.record(record(0.5001, 1.0))
            await unmark(marked)

        monkeypatch.setattr(rolling, "_unmark", record_first)
        await rolling.repair()
        assert (await caller.monitor()).statistics["latency"].count == 2
        monkeypatch.undo()
        await connection.execute("update stale set since = '2000-01-01'")
        while await rolling.repair():
            pass
        cursor = await connection.execute("select sum(count) from hours")
        assert await cursor.fetchone() == (2,)
        assert (await caller.monitor()).statistics["latency"].count == 2


async def test_one_replica_rolls_up_and_the_others_stand_by(empty: Place) -> None:
    async with serving(empty), connected(empty) as first, connected(empty) as second:
        for connection, held in ((first, True), (second, False)):
            cursor = await connection.execute(rollups.LOCK)
            assert await cursor.fetchone() == (held,)
        await first.close()  # it died: the next one may
        for _ in range(1_000):
            cursor = await second.execute(rollups.LOCK)
            if await cursor.fetchone() == (True,):
                return
            await asyncio.sleep(0.05)
        pytest.fail("the lock of a replica that died was never free")
