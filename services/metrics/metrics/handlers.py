"""What the service is asked, and who else hears of it."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from common.bus import Bus
from common.context import current
from common.contracts.monitoring import (
    EPOCH,
    LAST_ARRIVAL,
    METRICS_RECORDED,
    MICROSECOND,
    USUAL_METRICS,
    Alerts,
    AlertsRequest,
    Heard,
    History,
    HistoryRequest,
    KnownModel,
    MetricUpdate,
    ModelRequest,
    Monitoring,
    MonitorRequest,
    NewRule,
    Nothing,
    Recorded,
    Rule,
    RuleRequest,
    Rules,
    Samples,
    Window,
)
from common.errors import InvalidRequest
from common.postgres import Connection, Database
from metrics import batch, incidents, window
from metrics.alerts import Watch
from metrics.batch import Batch, Clock
from metrics.plots import draw
from metrics.recommendations import recommend
from metrics.rules import MEMORY_OF, OwnRules
from metrics.series import Series
from metrics.statistics import summarise
from metrics.window import EMPTY
from metrics.writer import PERHAPS_LATE, Rows, Stored, Writer, now

log = structlog.get_logger()

# What the answer always has, by the name of the metric that it comes from.
ALWAYS = {"throughput": "throughput", "latency": "latency", "cost_per_inference": "costs"}
# Moments that are told without a pause, in which others are to be answered.
AT_ONCE = 100
# Values in one answer to HISTORY: what a message on the bus carries.
MOST_VALUES = 20_000
# Older samples are history that is being brought in, and raise no alert (alerts.LIVE).
LIVE = 86_400_000_000

LATEST = """
select metric, (select value from samples where series = id order by at desc limit 1)
from series where id = any(%s)
"""
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
select spans.series, (extract(epoch from at - '2000-01-01Z') * 1e6)::bigint, s.arrival, value
from spans cross join lateral (
    select at, value, arrival from samples
    where series = spans.series and at between spans.first and spans.last
    and at < coalesce(%(before)s, 'infinity'::timestamptz)
    and arrival >= coalesce(spans.arrival, %(oldest)s)
    and arrival <= coalesce(spans.arrival, 9223372036854775807)
    and (arrival, at) > (
        select coalesce(max(place), %(floor)s), coalesce(max(heard.at), 'infinity')
        from unnest(%(places)s::bigint[], %(times)s::timestamptz[]) as heard(place, at)
        where place & 255 = arrival & 255
    )
    order by at desc limit %(most)s
) as s
"""


@dataclass(slots=True)
class Recording:
    """A call to record, once it is understood."""

    account: str
    batch: Batch


class Handlers:
    def __init__(self, database: Database, bus: Bus, most_series: int) -> None:
        self.database = database
        self.bus = bus
        self.series = Series(database, most_series)
        self.writer = Writer(database, self.tell)
        self.watch = Watch(database, bus)
        self.rules = OwnRules(database)
        self._clock = Clock()

    async def run(self) -> None:
        """What goes on beside the answers; ends only with the process."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.writer.run())
            tasks.create_task(self.watch.run())
            tasks.create_task(self.watch.sweep())

    async def record(self, request: Samples) -> Recorded:
        """All samples are committed and told when this returns, each once however often it comes.

        Raises:
            InvalidRequest: too many series.
            Unavailable: the database is away; nothing was stored, or all of it.
        """
        account = current.get().account
        content = batch.unpack(request, self._clock)
        numbers = await self.series.number(account, content.pairs)
        series = batch.series_of(content, numbers)
        await self.writer.write(
            Recording(account, content),
            Rows(series, content.at, content.value, content.timed),
            current.get().idempotency_key,
        )
        return Recorded()

    async def tell(self, committed: list[Stored[Recording]]) -> None:
        """What was committed together: to the watch, and to whoever listens, by time."""
        together: dict[tuple[str, str], batch.Moments] = {}
        for stored in committed:
            content = stored.call.batch
            if stored.new is not None:
                if not stored.new.any():
                    continue
                content = content.only(stored.new)
            self._note(stored.call.account, content)
            for model, moments in batch.moments(content):
                found = together.setdefault((stored.call.account, model), {})
                for at, metrics in moments.items():
                    found.setdefault(at, {}).update(metrics)
        count = 0
        for (account, model), moments in together.items():
            for at in batch.chosen(moments):
                update = MetricUpdate.model_construct(
                    model_id=model,
                    timestamp=batch.to_text(at),
                    metrics=moments[at],
                    arrival=committed[0].arrival,
                )
                await self.bus.publish(METRICS_RECORDED, update, account, model)
                count += 1
                if count % AT_ONCE == 0:
                    await asyncio.sleep(0)

    def _note(self, account: str, content: Batch) -> None:
        """What is not history is looked at for alerts."""
        live = content.at > now() - LIVE
        if not live.any():
            return
        recent = content if live.all() else content.only(live)
        found = batch.extremes(recent)
        for model, numbers in recent.models.items():
            self.watch.note(account, model, {recent.pairs[n][1]: found[n] for n in numbers})

    async def monitor(self, request: MonitorRequest) -> Monitoring:
        """Statistics, plots and advice. Raises NotFound for a model of nobody's, or another's."""
        account = current.get().account
        until = datetime.now(UTC)
        since = until - timedelta(days=request.days)
        async with self.database.connection() as connection:
            numbers = await self.series.of_model(connection, account, request.model_id)
            wanted = request.metrics or [metric for metric in USUAL_METRICS if metric in numbers]
            shown = dict.fromkeys([*ALWAYS, *wanted])
            read = [m for m in dict.fromkeys([*shown, *USUAL_METRICS]) if m in numbers]
            found = await window.read(connection, [numbers[metric] for metric in read], since)
            latest = await _latest(connection, numbers)
        histories = {metric: found.get(numbers[metric], EMPTY) for metric in read}
        # A year's trend takes tenths of a second, in which others are to be answered.
        return await asyncio.to_thread(
            _describe, request, shown, wanted, histories, latest, Window(since=since, until=until)
        )

    async def history(self, request: HistoryRequest) -> History:
        """What arrived while somebody was away, in the form in which it was told."""
        account = current.get().account
        async with self.database.connection() as connection:
            numbers = await self.series.of_model(connection, account, request.model_id)
            names = {
                number: metric
                for metric, number in numbers.items()
                if request.metrics is None or metric in request.metrics
            }
            heard = request.heard or await _heard(connection, list(names), request.since)
            oldest = min([heard.floor, *(arrival for arrival, _ in heard.places)])
            cursor = await connection.execute(
                MISSED,
                {
                    "ids": list(names),
                    "since": batch.to_time(oldest // 256 - PERHAPS_LATE),
                    "before": request.before,
                    "oldest": oldest,
                    "floor": heard.floor,
                    "places": [arrival for arrival, _ in heard.places],
                    "times": [batch.to_time(at) for _, at in heard.places],
                    "most": request.most + 1,
                },
            )
            rows = await cursor.fetchall()
        moments: dict[tuple[int, int], dict[str, float]] = {}
        values, last = 0, None
        for id, at, arrival, value in sorted(rows, key=lambda row: row[1:3], reverse=True):
            # Cut between two times, since the next page begins before one.
            if at != last and (len(moments) >= request.most or values >= MOST_VALUES):
                break
            moments.setdefault((at, arrival), {})[names[id]] = value
            values, last = values + 1, at
        updates = [
            MetricUpdate(
                model_id=request.model_id,
                timestamp=batch.to_text(at),
                metrics=metrics,
                arrival=arrival,
            )
            for (at, arrival), metrics in reversed(moments.items())
        ]
        return History(updates=updates, complete=values == len(rows), heard=heard)

    async def find_model(self, request: ModelRequest) -> KnownModel:
        """Raises NotFound, also for another account's."""
        account = current.get().account
        async with self.database.connection() as connection:
            numbers = await self.series.of_model(connection, account, request.model_id)
        return KnownModel(metrics=sorted(numbers))

    async def list_alerts(self, request: AlertsRequest) -> Alerts:
        return await incidents.list_alerts(self.database, current.get().account, request)

    async def list_rules(self, _: Nothing) -> Rules:
        return await self.rules.all(current.get().account)

    async def add_rule(self, request: NewRule) -> Rule:
        return await self.rules.add(current.get().account, request)

    async def remove_rule(self, request: RuleRequest) -> Nothing:
        return await self.rules.remove(current.get().account, request)


async def _latest(connection: Connection, numbers: Mapping[str, int]) -> dict[str, float]:
    """The newest values of what advice is made of besides the window."""
    known = {*MEMORY_OF.values(), "batch_size"}
    ids = [
        number
        for metric, number in numbers.items()
        if metric in known or metric.startswith("cost_per_inference_batch_")
    ]
    if not ids:
        return {}
    rows = await (await connection.execute(LATEST, [ids])).fetchall()
    return {metric: value for metric, value in rows if value is not None}


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


def _describe(
    request: MonitorRequest,
    shown: Mapping[str, Any],
    wanted: list[str],
    histories: Mapping[str, window.History],
    latest: Mapping[str, float],
    window_: Window,
) -> Monitoring:
    return Monitoring.model_construct(
        statistics={
            ALWAYS.get(metric, metric): summarise(metric, histories.get(metric, EMPTY))
            for metric in shown
        },
        plots={
            metric: draw(metric, histories.get(metric, EMPTY), request.plot_format)
            for metric in wanted
        },
        recommendations=recommend(histories, latest),
        window=window_,
    )
