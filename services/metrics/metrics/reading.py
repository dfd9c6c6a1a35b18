"""Recorded samples, page by page."""

from datetime import UTC, datetime

from common.contracts.reading import RecordedSamples, Sample, SamplesRequest
from common.contracts.timestamps import from_us, to_us
from common.errors import InvalidRequest
from common.postgres import Connection
from metrics.units import unit

# Before and after every time that PostgreSQL and Python both know.
EARLIEST, LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)

# If its statistics are out of date, the planner would sort a whole series for one page rather than
# read the index in order: 930 ms instead of 13 for 10,000 of 490,000 samples.
IN_ORDER = "set local enable_bitmapscan = off"
PAGE = """
select at, value from recorded
where series = %s and at >= %s and at < %s and at > %s order by at limit %s
"""


async def read(connection: Connection, series: int, request: SamplesRequest) -> RecordedSamples:
    """Read one page of a series.

    Raises:
        InvalidRequest: the span is empty.
    """
    first, last = span_of(request.from_, request.to)
    after = EARLIEST if request.cursor is None else _after(request.cursor)
    await connection.execute(IN_ORDER)
    cursor = await connection.cursor(binary=True).execute(
        PAGE, [series, first, last, after, request.limit + 1]
    )
    rows = await cursor.fetchall()
    page = rows[: request.limit]
    return RecordedSamples.model_construct(
        model_id=request.model_id,
        metric=request.metric,
        unit=unit(request.metric),
        samples=[
            Sample.model_construct(timestamp=at.astimezone(UTC), value=value) for at, value in page
        ],
        next=str(to_us(page[-1][0])) if len(rows) > len(page) else None,
    )


def span_of(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """Return the bounds of a span of time; the upper bound is excluded.

    Raises:
        InvalidRequest: the span is empty.
    """
    first, last = max(since or EARLIEST, EARLIEST), min(until or LATEST, LATEST)
    if first >= last:
        fault = "must be later than `from`, and is itself excluded"
        raise InvalidRequest(f"to: {fault}", fields=[{"path": "to", "message": fault}])
    return first, last


def _after(cursor: str) -> datetime:
    try:
        return from_us(int(cursor))
    except OverflowError:
        return LATEST
