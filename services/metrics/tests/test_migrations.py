"""Migrations of databases of earlier versions."""

from collections.abc import Iterable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from random import Random

import pytest

from common.contracts.address import model_id_of
from common.postgres import Connection
from metrics import rollups

from .conftest import Place, connected
from .test_storage import record, serving

# What migration 013 was until 014 replaced it; databases that ran it have its name.
EARLY_013 = Path(__file__).with_name("013_addresses_until_014.sql")
SCRIPTS = sorted(files("metrics").joinpath("migrations").iterdir(), key=lambda script: script.name)


async def apply(connection: Connection, scripts: Iterable[Traversable]) -> None:
    await connection.execute(
        "create table migrations (name text primary key, applied_at timestamptz default now())"
    )
    for script in scripts:
        await connection.execute(script.read_text())
        await connection.execute("insert into migrations (name) values (%s)", [script.name])


@pytest.mark.parametrize("version", range(1, len(SCRIPTS)))
async def test_a_database_of_any_earlier_version_is_brought_up_to_date(
    empty: Place, version: int
) -> None:
    async with connected(empty) as connection:
        await apply(connection, SCRIPTS[:version])
        await connection.execute(
            "insert into series (account, model, metric) values ('a', 'm', 'latency')"
        )
        await connection.execute(
            "insert into samples (series, at, value) select id, now(), 1 from series"
        )
    async with serving(empty) as caller:
        caller.account = "a"
        await caller.record(record(0.5, 2.0))
        assert (await caller.monitor()).statistics["latency"].total == 3.0


@pytest.mark.parametrize("earlier", [False, True])
async def test_models_recorded_under_their_address_are_renamed_to_their_id(
    empty: Place, earlier: bool
) -> None:
    """By 014, or already by 013 as it was until 014 replaced it."""
    site, metrics = "https://huggingface.co/", ("latency", "throughput")
    async with connected(empty) as connection:
        await apply(connection, [script for script in SCRIPTS if script.name < "013"])
        for model in (f"{site}o/a", f"{site}o/a/tree/main", f"{site}o/b", f"{site}datasets/c"):
            await connection.execute(
                "insert into series (account, model, metric) select 'a', %s, unnest(%s::text[])",
                [model, list(metrics)],
            )
        await connection.execute(
            "insert into series (account, model, metric)"
            " values ('a', 'o/b', 'latency'), ('a', 'o/a@address', 'latency')"
        )
        for rule, model in (("r", f"{site}o/a"), ("s", "o/c/tree/main"), ("t", "o/d")):
            await connection.execute(
                "insert into rules (id, account, rule) values (%s, 'a', %s)",
                [rule, f'{{"modelId": "{model}"}}'],
            )
            await connection.execute(
                "insert into holding values ('a', %s, 'latency', %s, now())", [model, rule]
            )
        for name, model, metric in (
            ("first", f"{site}o/a", "latency"),
            ("second", f"{site}o/a/tree/main", "latency"),
            ("other metric", f"{site}o/a/tree/main", None),
            ("under the address", f"{site}o/b", "latency"),
            ("under the id", "o/b", "latency"),
        ):
            await connection.execute(
                "insert into alerts (id, account, model, metric, rule, type, severity, message)"
                " values (%s, 'a', %s, %s, 'r', 't', 'warning', '')",
                [name, model, metric],
            )
        if earlier:
            await apply_early_013(connection)
        async with serving(empty):
            pass
        cursor = await connection.execute(
            "select id, model, recovery from alerts where recovered_at is null order by number"
        )
        assert await cursor.fetchall() == [
            ("first", "o/a", None),
            ("other metric", "o/a", None),
            ("under the id", "o/b", None),
        ]
        cursor = await connection.execute(
            "select id, model, recovery from alerts where recovered_at is not null order by number"
        )
        assert await cursor.fetchall() == [
            ("second", "o/a", f"{site}o/a/tree/main: another alert of o/a goes on"),
            ("under the address", "o/b", f"{site}o/b: another alert of o/b goes on"),
        ]
        cursor = await connection.execute("select model, metric from series order by id")
        assert await cursor.fetchall() == [
            *(("o/a", metric) for metric in metrics),
            # Recorded under two addresses, or under an address and the id.
            *(("o/a@address-2", metric) for metric in metrics),
            ("o/b@address", "latency"),
            ("o/b", "throughput"),
            *((f"{site}datasets/c", metric) for metric in metrics),
            ("o/b", "latency"),
            ("o/a@address", "latency"),  # the account's own name
        ]
        assert model_id_of("o/a@address-2") == "o/a@address-2"
        cursor = await connection.execute("select rule ->> 'modelId' from rules order by id")
        assert await cursor.fetchall() == [("o/a",), ("o/c",), ("o/d",)]
        # A rule that was about to raise an alert starts to wait anew, under the id.
        cursor = await connection.execute("select model from holding")
        assert await cursor.fetchall() == [("o/d",)]


async def test_what_the_earlier_013_renamed_stays_and_the_rest_is_renamed(empty: Place) -> None:
    names = ["https://huggingface.co/..", "https://hf.co/o/a?x=1", " o/b ", "o/c/tree/v1/"]
    async with connected(empty) as connection:
        await apply(connection, [script for script in SCRIPTS if script.name < "013"])
        await connection.execute(
            "insert into series (account, model, metric)"
            " select 'a', name, 'latency' from unnest(%s::text[]) as n(name)",
            [names],
        )
        await apply_early_013(connection)
        async with serving(empty):
            pass
        cursor = await connection.execute("select model from series order by id")
        renamed = [model for (model,) in await cursor.fetchall()]
    assert renamed == ["..", "o/a", "o/b", "o/c/tree/v1"]


async def apply_early_013(connection: Connection) -> None:
    await connection.execute(EARLY_013.read_text())
    await connection.execute("insert into migrations (name) values ('013_addresses.sql')")


SITES = (
    "https://huggingface.co/",
    "HTTPS://HF.co:443/",
    "http://hf.co/",
    "https://hf.co.example/",
    "",
)
SEGMENTS = ("o", "o", "a.b", "a.b", "tree", "tree", "main", "main", "v1", "refs%2fpr%2F7", "", "..")
SEGMENTS += (
    "-",
    "a--b",
    "x.git",
    "x.lock",
    "docs",
    "api",
    "MAIN",
    "blob",
    "HF.co",
    "@",
    "\u00e9",
    "_",
)
ENDS = ("", "", "/", "//", "?x=/y", "#z", " ", "\u3000", "\\", ":")


def draw_names() -> set[str]:
    """Draw 4,000 names, many of which are addresses, with a fixed seed."""
    random = Random(13)
    return {
        random.choice(SITES)
        + "/".join(random.choices(SEGMENTS, k=random.randint(1, 5)))
        + random.choice(ENDS)
        for _ in range(4_000)
    }


async def test_a_migration_and_a_request_read_the_same_names_as_addresses(empty: Place) -> None:
    names = {name for name in draw_names() if name.strip()}
    ids = {name: model_id_of(name) for name in sorted(names)}
    assert sum(name.strip() != id for name, id in ids.items()) > 200
    async with connected(empty) as connection:
        await apply(connection, [script for script in SCRIPTS if script.name < "014"])
        await connection.execute(
            "insert into series (account, model, metric)"
            " select number, name, 'latency' from unnest(%s::text[])"
            " with ordinality as n(name, number)",
            [list(ids)],
        )
        async with serving(empty):
            pass
        cursor = await connection.execute("select model from series order by account::integer")
        renamed = [model for (model,) in await cursor.fetchall()]
    assert dict(zip(ids, renamed, strict=True)) == ids


@pytest.mark.parametrize("passed", [False, True])
async def test_a_database_created_just_after_the_hour_keeps_samples_from_just_before_it(
    empty: Place, passed: bool
) -> None:
    """The previous hour must not be regarded as settled yet."""
    async with connected(empty) as connection:
        await apply(connection, SCRIPTS[:5])
        full, moment = "date_trunc('hour', now(), 'UTC')", "interval '1 hour'"
        if passed:
            start = f"{full} - 5 * {moment}"
            await connection.execute(f"update watermark set until = {full} - {moment}")
        else:
            start = f"{full} + {moment}"
            await connection.execute(f"update watermark set until = {start}")
        await connection.execute(f"update migrations set applied_at = {start}")
        await connection.execute(
            "insert into series (account, model, metric) values ('a', 'm', 'latency')"
        )
        await connection.execute(
            f"insert into samples (series, at, value) select id, {start} - interval '3 minutes', 1"
            " from series"
        )
        async with serving(empty) as caller:
            caller.account = "a"
            assert (await caller.monitor()).statistics["latency"].count == 1
            await connection.execute("update stale set since = '2000-01-01'")
            rolling = await rollups.load(connection)
            while await rolling.advance() or await rolling.repair():
                pass
            assert (await caller.monitor()).statistics["latency"].count == 1


async def test_an_extension_that_is_not_preloaded_is_not_created(empty: Place) -> None:
    """Creating the extension would end the connection, so that the service could not start."""
    async with connected(empty) as connection:
        notices: list[str] = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary or ""))
        # Simulates a server that has the extension on its disk.
        await connection.execute(
            "create view pg_available_extensions as select 'timescaledb'::name as name"
        )
        await connection.execute(f"set search_path = {empty.schema}, pg_catalog")
        await connection.execute(SCRIPTS[0].read_text())
        assert not [notice for notice in notices if "TimescaleDB is not used" in notice]
