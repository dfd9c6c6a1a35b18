"""What arrived of a model while somebody was away: first when, then what."""

from collections.abc import Iterable
from datetime import datetime

from common.contracts.monitoring import (
    EPOCH,
    LAST_ARRIVAL,
    MICROSECOND,
    Heard,
    History,
    HistoryRequest,
    MetricUpdate,
    Moments,
    Recalled,
    RecallRequest,
)
from common.errors import InvalidRequest
from common.postgres import Connection
from metrics import batch
from metrics.writer import PERHAPS_LATE

# Samples that are looked at for one answer, of all metrics: as many as take a second.
MOST_SAMPLES = 200_000
# What one message on the bus carries, in bytes, with room for the rest of it.
MOST_BYTES = 500_000

ARRIVED = """
select min(arrival) from samples where series = any(%s::integer[]) and at = %s
"""
# What arrived after somebody had heard something: samples of that time and
# later, and by their own list those that came late.
MISSED = """
with spans as (
    select id as series, %(since)s::timestamptz as first, 'infinity'::timestamptz as last,
        null::bigint as arrival
    from unnest(%(ids)s::integer[]) as id
    union all
    select series, first, least(last, %(since)s - interval '1 microsecond'), arrival
    from late where series = any(%(ids)s::integer[]) and arrival >= %(oldest)s and first < %(since)s
)
select distinct (extract(epoch from at - '2000-01-01Z') * 1e6)::bigint as at, s.arrival
from spans cross join lateral (
    select at, arrival from samples
    where series = spans.series and at between spans.first and spans.last
    and arrival >= coalesce(spans.arrival, %(oldest)s)
    and arrival <= coalesce(spans.arrival, 9223372036854775807)
    and (arrival, at) > (
        select coalesce(max(place), %(floor)s), coalesce(max(heard.at), 'infinity')
        from unnest(%(places)s::bigint[], %(times)s::timestamptz[]) as heard(place, at)
        where place & 255 = arrival & 255
    )
    order by at desc limit %(most)s
) as s
order by 1 desc, 2 desc limit %(most)s
"""
RECALL = """
select asked.number, series, value
from unnest(%s::bigint[], %s::timestamptz[]) with ordinality as asked(arrival, at, number)
join samples on samples.series = any(%s::integer[]) and samples.at = asked.at
    and samples.arrival = asked.arrival
order by asked.number, series
"""


async def find(connection: Connection, numbers: dict[str, int], request: HistoryRequest) -> History:
    """When it was; `numbers` are the model's series."""
    names = _wanted(numbers, request.metrics)
    heard = request.heard or await _heard(connection, list(names), request.since)
    oldest = min([heard.floor, *(arrival for arrival, _ in heard.places)])
    most = min(request.most, max(MOST_SAMPLES // max(len(names), 1), 1))
    cursor = await connection.execute(
        MISSED,
        {
            "ids": list(names),
            "since": batch.to_time(oldest // 256 - PERHAPS_LATE),
            "oldest": oldest,
            "floor": heard.floor,
            "places": [arrival for arrival, _ in heard.places],
            "times": [batch.to_time(at) for _, at in heard.places],
            "most": most + 1,
        },
    )
    rows = await cursor.fetchall()
    found = sorted((arrival, at) for at, arrival in rows[:most])
    return History(moments=Moments.pack(found), complete=len(rows) <= most, heard=heard)


async def recall(
    connection: Connection, numbers: dict[str, int], request: RecallRequest
) -> Recalled:
    """What it was: of as many of the moments, from the first, as fit into a message."""
    names = _wanted(numbers, request.metrics)
    asked = request.moments.unpack()
    times = [batch.to_time(at) for _, at in asked]
    cursor = await connection.execute(
        RECALL, [[arrival for arrival, _ in asked], times, list(names)]
    )
    found: dict[int, dict[str, float]] = {}
    size = 0
    for number, series, value in await cursor.fetchall():
        if number not in found and found and size > MOST_BYTES:
            return Recalled(updates=_updates(request, asked, found), told=number - 1)
        found.setdefault(number, {})[names[series]] = value
        size += len(names[series]) + 24
    return Recalled(updates=_updates(request, asked, found), told=len(asked))


def _updates(
    request: RecallRequest, asked: list[tuple[int, int]], found: dict[int, dict[str, float]]
) -> list[MetricUpdate]:
    moments = ((asked[number - 1], metrics) for number, metrics in found.items())
    return [
        MetricUpdate(
            model_id=request.model_id, timestamp=batch.to_text(at), metrics=metrics, arrival=arrival
        )
        for (arrival, at), metrics in moments
    ]


def _wanted(numbers: dict[str, int], metrics: Iterable[str] | None) -> dict[int, str]:
    return {n: metric for metric, n in numbers.items() if metrics is None or metric in metrics}


async def _heard(connection: Connection, ids: list[int], since: datetime | None) -> Heard:
    """Of whoever says no more than a time: that of the last sample heard, or of the clock."""
    if since is None:
        raise InvalidRequest("say since when, or what was heard")
    row = await (await connection.execute(ARRIVED, [ids, since])).fetchone()
    moment = max((since - EPOCH) // MICROSECOND, 0)
    if row is None or row[0] is None:
        floor = min(moment * 256 + 255, LAST_ARRIVAL)
        return Heard(floor=floor, alerted=moment, places=[])
    return Heard(floor=row[0], alerted=moment, places=[(row[0], moment)])
