"""Deletion of wrong samples.

The days that it touches are marked as stale, so that answers read their samples until the
sweep has rolled them up again. On plain PostgreSQL the rollups are mended at once as well:
a day with too many samples to be read is answered from them.
"""

from typing import Any

from common.contracts.reading import MAX_DELETED_SAMPLES, SamplesDeletion
from common.errors import InvalidRequest
from common.postgres import Connection
from metrics import rollups
from metrics.reading import span_of
from metrics.rollups import MERGE_LOCK

COUNT = """
select count(*) from (
    select from recorded where series = any(%s) and at >= %s and at < %s limit %s
) as found
"""
# The columnstore otherwise refuses a deletion that touches many compressed samples.
NO_DECOMPRESSION_LIMIT = """
select set_config('timescaledb.max_tuples_decompressed_per_dml_transaction', '0', true)
"""
DELETE = """
with gone as (
    delete from {table} where series = any(%s) and at >= %s and at < %s returning series, at
)
select series, date_trunc('day', at, 'UTC'), count(*), min(at), max(at) from gone group by 1, 2
"""
MARK = """
insert into stale (series, day)
select series, day from unnest(%s::integer[], %s::timestamptz[]) as s(series, day) order by 1, 2
on conflict (series, day) do update set mark = excluded.mark, direct = true
"""
UNSTAGE = """
update stale set staged = greatest(stale.staged - gone.count, 0)
from unnest(%s::integer[], %s::timestamptz[], %s::integer[]) as gone(series, day, count)
where stale.series = gone.series and stale.day = gone.day
"""
# The samples of a new account may be deleted before they are counted (`Usage.flush`), which then
# adds them to a negative number.
DISCOUNT = """
insert into usage (account, samples) values (%(account)s, -%(count)s)
on conflict (account) do update
set samples = usage.samples - %(count)s, staged = greatest(usage.staged - %(waiting)s, 0)
"""


async def delete(
    connection: Connection, account: str, ids: list[int], request: SamplesDeletion
) -> int:
    """Delete the samples of some series in a span of time; return the number deleted.

    Raises:
        InvalidRequest: the span is empty, or holds too many samples; none is deleted.
    """
    span = [ids, *span_of(request.from_, request.to)]
    cursor = await connection.execute(COUNT, [*span, MAX_DELETED_SAMPLES + 1])
    row = await cursor.fetchone()
    if row and row[0] > MAX_DELETED_SAMPLES:
        raise InvalidRequest(
            f"at most {MAX_DELETED_SAMPLES:,} samples are deleted in a call, and there are more:"
            " narrow `from` and `to`, or name one metric",
            limit=MAX_DELETED_SAMPLES,
        )
    # Keeps staging and merging out until the commit.
    await connection.execute(MERGE_LOCK, [ids])
    await connection.execute(NO_DECOMPRESSION_LIMIT)
    staged = await _delete_from(connection, "staged", span)
    deleted = await _delete_from(connection, "samples", span)
    if staged:
        series, days, counts, *_ = _columns(staged)
        await connection.execute(UNSTAGE, [series, days, counts])
    if deleted:
        series, days, _, firsts, lasts = _columns(deleted)
        await connection.execute(MARK, [series, days])
        rolling = await rollups.load(connection)
        await rolling.mend(sorted({*series}), min(firsts), max(lasts))
    waiting: int = sum(row[2] for row in staged)
    count: int = waiting + sum(row[2] for row in deleted)
    gone = {"account": account, "count": count, "waiting": waiting}
    await connection.execute(DISCOUNT, gone)
    return count


async def _delete_from(connection: Connection, table: str, span: list[Any]) -> list[Any]:
    cursor = await connection.execute(DELETE.format(table=table).encode(), span)
    return await cursor.fetchall()


def _columns(rows: list[Any]) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)]
