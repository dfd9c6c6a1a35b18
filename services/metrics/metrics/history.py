"""Samples that a listener missed: their arrivals, and their values."""

from collections.abc import Iterable
from datetime import datetime

from common.contracts.history import (
    History,
    HistoryRequest,
    MetricUpdate,
    Moments,
    Position,
    Recalled,
    RecallRequest,
    last_arrival_of,
    us_of,
)
from common.contracts.timestamps import from_us, sql_us, to_text, to_us
from common.errors import InvalidRequest
from common.postgres import Connection
from metrics.storage import PERHAPS_LATE_US

# Samples read for one answer, of all metrics: a second's work.
MAX_SAMPLES = 200_000
# Samples in one message on the bus, with room for the rest of it.
MAX_REPLY_BYTES = 500_000

ARRIVED = """
select min(arrival) from recorded where series = any(%s::integer[]) and at = %s
"""
# Samples that arrived after a position: by their times, and by the table `late`.
MISSED = f"""
with spans as (
    select id as series, %(since)s::timestamptz as first, 'infinity'::timestamptz as last,
        null::bigint as arrival
    from unnest(%(ids)s::integer[]) as id
    union all
    select series, first, least(last, %(since)s - interval '1 microsecond'), arrival
    from late where series = any(%(ids)s::integer[]) and arrival >= %(oldest)s and first < %(since)s
)
select distinct {sql_us("at")} as at, s.arrival
from spans cross join lateral (
    select at, arrival from recorded
    where series = spans.series and at between spans.first and spans.last
    and arrival >= coalesce(spans.arrival, %(oldest)s)
    and arrival <= coalesce(spans.arrival, 9223372036854775807)
    and (arrival, at) > (
        select coalesce(max(place), %(floor)s), coalesce(max(known.at), 'infinity')
        from unnest(%(places)s::bigint[], %(times)s::timestamptz[]) as known(place, at)
        where place & 255 = arrival & 255
    )
    order by at desc limit %(limit)s
) as s
order by 1 desc, 2 desc limit %(limit)s
"""  # noqa: S608  (constants)
RECALL = """
select asked.number, series, value
from unnest(%s::bigint[], %s::timestamptz[]) with ordinality as asked(arrival, at, number)
cross join lateral (
    select series, value from recorded
    where recorded.series = any(%s::integer[]) and recorded.at = asked.at
    and recorded.arrival = asked.arrival
) as found
order by asked.number, series
"""


async def find(connection: Connection, numbers: dict[str, int], request: HistoryRequest) -> History:
    """Find when missed samples arrived; `numbers` maps the model's metrics to their series."""
    names = _wanted(numbers, request.metrics)
    position = request.position or await _position(connection, list(names), request.since)
    oldest = min([position.floor, *(arrival for arrival, _ in position.places)])
    limit = min(request.limit, max(MAX_SAMPLES // max(len(names), 1), 1))
    cursor = await connection.execute(
        MISSED,
        {
            "ids": list(names),
            "since": from_us(us_of(oldest) - PERHAPS_LATE_US),
            "oldest": oldest,
            "floor": position.floor,
            "places": [arrival for arrival, _ in position.places],
            "times": [from_us(at) for _, at in position.places],
            "limit": limit + 1,
        },
    )
    rows = await cursor.fetchall()
    arrivals = sorted((arrival, at) for at, arrival in rows[:limit])
    return History(moments=Moments.pack(arrivals), complete=len(rows) <= limit, position=position)


async def recall(
    connection: Connection, numbers: dict[str, int], request: RecallRequest
) -> Recalled:
    """Read the samples of the requested times, from the first on, as many as fit a message."""
    names = _wanted(numbers, request.metrics)
    moments = request.moments.unpack()
    times = [from_us(at) for _, at in moments]
    cursor = await connection.execute(
        RECALL, [[arrival for arrival, _ in moments], times, list(names)]
    )
    metrics_by_moment: dict[int, dict[str, float]] = {}
    size = 0
    for number, series, value in await cursor.fetchall():
        if number not in metrics_by_moment and metrics_by_moment and size > MAX_REPLY_BYTES:
            return Recalled(updates=_updates(request, moments, metrics_by_moment), count=number - 1)
        metrics_by_moment.setdefault(number, {})[names[series]] = value
        size += len(names[series]) + 24
    return Recalled(updates=_updates(request, moments, metrics_by_moment), count=len(moments))


def _updates(
    request: RecallRequest,
    moments_asked: list[tuple[int, int]],
    metrics_by_moment: dict[int, dict[str, float]],
) -> list[MetricUpdate]:
    moments = (
        (moments_asked[number - 1], metrics) for number, metrics in metrics_by_moment.items()
    )
    return [
        MetricUpdate(
            model_id=request.model_id, timestamp=to_text(at), metrics=metrics, arrival=arrival
        )
        for (arrival, at), metrics in moments
    ]


def _wanted(numbers: dict[str, int], metrics: Iterable[str] | None) -> dict[int, str]:
    return {n: metric for metric, n in numbers.items() if metrics is None or metric in metrics}


async def _position(connection: Connection, ids: list[int], since: datetime | None) -> Position:
    """Return the replay position of the sample at `since`, or of that time if no sample has it."""
    if since is None:
        raise InvalidRequest("send either `since` or `position`")
    row = await (await connection.execute(ARRIVED, [ids, since])).fetchone()
    moment = max(to_us(since), 0)
    if row is None or row[0] is None:
        return Position(floor=last_arrival_of(moment), alerted=moment, places=[])
    return Position(floor=row[0], alerted=moment, places=[(row[0], moment)])
