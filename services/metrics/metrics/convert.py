"""Conversion of a plain database to TimescaleDB.

One transaction, in which nobody writes or reads samples: it ends as if it had
never been begun, or with everything there. The aggregates are computed
afterwards by the running service; until then answers come from the samples.
"""

import sys

import psycopg
from psycopg import AsyncConnection

from common.quantities import counted

SCHEMA = "metrics"


async def convert(url: str, schema: str = SCHEMA) -> int:
    """Convert the database to TimescaleDB; return the exit status."""
    options = f"-c search_path={schema} -c client_encoding=utf8 -c timezone=UTC"
    try:
        async with await AsyncConnection.connect(url, options=options) as connection:
            outcome = await _convert(connection)
    except psycopg.Error as error:
        print(f"not converted, and nothing was changed: {error}", file=sys.stderr)  # noqa: T201  (a command's answer)
        return 1
    print(outcome)  # noqa: T201
    return 0


async def _convert(connection: AsyncConnection[tuple[object, ...]]) -> str:
    kind = await (
        await connection.execute("select relkind from pg_class where oid = 'samples'::regclass")
    ).fetchone()
    if kind != ("p",):
        return "the samples are in a hypertable already"
    await connection.execute("create extension if not exists timescaledb")
    cursor = await connection.execute("select current_setting('timescaledb.license')")
    if await cursor.fetchone() == ("apache",):
        raise psycopg.NotSupportedError("timescaledb.license is apache; timescale is needed")
    await connection.execute("lock table samples, watermark, stale in access exclusive mode")
    await connection.execute("drop view recorded")
    await connection.execute("alter table samples rename to samples_plain")
    await connection.execute("alter index samples_pkey rename to samples_plain_pkey")
    await connection.execute("drop table hours, days")
    await connection.execute("select create_storage()")
    moved = await connection.execute("insert into samples select * from samples_plain")
    await connection.execute("drop table samples_plain")
    # Nothing is rolled up yet; the marks are of the dropped rollups, and of staged samples.
    await connection.execute("update watermark set until = '2000-01-01Z'")
    await connection.execute("delete from stale where staged = 0")
    await connection.execute("update stale set direct = false")
    return f"{counted(moved.rowcount, 'sample')} moved into a hypertable"
