"""What the service is asked, and who else hears of it."""

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from common.bus import Bus
from common.context import current
from common.contracts.monitoring import (
    METRICS_RECORDED,
    USUAL_METRICS,
    Alerts,
    AlertsRequest,
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
from common.postgres import Database
from metrics import batch, incidents, window
from metrics.alerts import Extremes, Watch
from metrics.batch import Batch, Clock
from metrics.plots import draw
from metrics.recommendations import recommend
from metrics.rules import MEMORY_OF, OwnRules
from metrics.series import Series
from metrics.statistics import summarise
from metrics.window import EMPTY
from metrics.writer import Rows, Writer, now

log = structlog.get_logger()

# What the answer always has, by the name of the metric that it comes from.
ALWAYS = {"throughput": "throughput", "latency": "latency", "cost_per_inference": "costs"}
# News is gathered for so long, in seconds: of what changes faster than anyone
# looks, the newest is told.
GATHER = 0.02
# Calls whose news waits to be told; beyond it the oldest is not told. Whoever
# listens can ask for what was missed (HISTORY).
MOST_UNTOLD = 10_000
# Values in one answer to HISTORY: what a message on the bus carries.
MOST_VALUES = 20_000
# Older samples are history that is being brought in, and raise no alert (alerts.LIVE).
LIVE = 86_400_000_000

LATEST = """
select metric, (select value from samples where series = id order by at desc limit 1)
from series where id = any(%s)
"""
RECENT = """
select id, extract(epoch from at - '2000-01-01Z') * 1e6, value from unnest(%s::integer[]) as id
cross join lateral (
    select at, value from samples where series = id and at > %s
    and at < coalesce(%s, 'infinity'::timestamptz) order by at desc limit %s
) as s
"""


@dataclass(slots=True)
class News:
    account: str
    batch: Batch


class Handlers:
    def __init__(self, database: Database, bus: Bus, most_series: int) -> None:
        self.database = database
        self.bus = bus
        self.series = Series(database, most_series)
        self.writer = Writer(database)
        self.watch = Watch(database, bus)
        self.rules = OwnRules(database)
        self._clock = Clock()
        self._news: deque[News] = deque(maxlen=MOST_UNTOLD)
        self._any_news = asyncio.Event()

    async def run(self) -> None:
        """What goes on beside the answers; ends only with the process."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.writer.run())
            tasks.create_task(self.watch.run())
            tasks.create_task(self.watch.sweep())
            tasks.create_task(self.tell())

    async def record(self, request: Samples) -> Recorded:
        """All samples are committed when this returns, each once however often it comes.

        Raises:
            InvalidRequest: too many series.
            Unavailable: the database is away; nothing was stored, or all of it.
        """
        account = current.get().account
        content = batch.unpack(request, self._clock)
        numbers = await self.series.number(account, content.pairs)
        series = batch.series_of(content, numbers)
        timed = content.timed
        rows = (
            [Rows(series, content.at, content.value)]
            if timed.all()
            else [
                Rows(series[mask], content.at[mask], content.value[mask], timed=given)
                for given, mask in ((True, timed), (False, ~timed))
                if mask.any()
            ]
        )
        await self.writer.write(rows, lambda: self._committed(News(account, content)))
        return Recorded()

    def _committed(self, news: News) -> None:
        self._news.append(news)
        self._any_news.set()

    async def tell(self) -> None:
        """For ever: what was committed, to the watch and to whoever listens."""
        while True:
            await self._any_news.wait()
            self._any_news.clear()
            await asyncio.sleep(GATHER)
            while self._news:
                together = [self._news.popleft() for _ in range(min(len(self._news), 100))]
                try:
                    await self._tell(together)
                except Exception:
                    log.exception("news not told")

    async def _tell(self, together: list[News]) -> None:
        moments: dict[tuple[str, str], dict[int, dict[str, float]]] = {}
        for news in together:
            self._note(news)
            for model, found in batch.moments(news.batch):
                told = moments.setdefault((news.account, model), {})
                for at, metrics in found.items():
                    told[at] = {**told.get(at, {}), **metrics}
        for (account, model), told in moments.items():
            for at in sorted(told)[-batch.MOST_TOLD :]:
                update = MetricUpdate.model_construct(
                    model_id=model, timestamp=batch.to_text(at), metrics=told[at]
                )
                await self.bus.publish(METRICS_RECORDED, update, account, model)

    def _note(self, news: News) -> None:
        """What is not history is looked at for alerts."""
        live = news.batch.at > now() - LIVE
        if not live.any():
            return
        recent = news.batch if live.all() else news.batch.only(live)
        least, greatest, newest = batch.extremes(recent)
        for model, numbers in recent.models.items():
            values = {
                recent.pairs[n][1]: Extremes(float(least[n]), float(greatest[n]), int(newest[n]))
                for n in numbers
            }
            self.watch.note(news.account, model, values)

    async def monitor(self, request: MonitorRequest) -> Monitoring:
        """Statistics, plots and advice. Raises NotFound for a model of nobody's, or another's."""
        account = current.get().account
        numbers = await self.series.of_model(account, request.model_id)
        wanted = request.metrics or [metric for metric in USUAL_METRICS if metric in numbers]
        shown = dict.fromkeys([*ALWAYS, *wanted])
        metrics = [
            metric for metric in dict.fromkeys([*shown, *USUAL_METRICS]) if metric in numbers
        ]
        until = datetime.now(UTC)
        since = until - timedelta(days=request.days)
        found = await window.read(self.database, [numbers[metric] for metric in metrics], since)
        histories = {metric: found.get(numbers[metric], EMPTY) for metric in metrics}
        latest = await self._latest(numbers)
        # A year's trend takes tenths of a second, in which others are to be answered.
        return await asyncio.to_thread(
            _describe, request, shown, wanted, histories, latest, Window(since=since, until=until)
        )

    async def _latest(self, numbers: Mapping[str, int]) -> dict[str, float]:
        """The newest values of what advice is made of besides the window."""
        known = {*MEMORY_OF.values(), "batch_size"}
        ids = [
            number
            for metric, number in numbers.items()
            if metric in known or metric.startswith("cost_per_inference_batch_")
        ]
        if not ids:
            return {}
        async with self.database.connection() as connection:
            rows = await (await connection.execute(LATEST, [ids])).fetchall()
        return {metric: value for metric, value in rows if value is not None}

    async def history(self, request: HistoryRequest) -> History:
        """What was recorded after a time, in the form in which it was told."""
        account = current.get().account
        numbers = await self.series.of_model(account, request.model_id)
        names = {
            number: metric
            for metric, number in numbers.items()
            if request.metrics is None or metric in request.metrics
        }
        async with self.database.connection() as connection:
            cursor = await connection.execute(
                RECENT, [list(names), request.since, request.before, request.most + 1]
            )
            rows = await cursor.fetchall()
        moments: dict[int, dict[str, float]] = {}
        values = 0
        for id, at, value in sorted(rows, key=lambda row: row[1], reverse=True):
            if int(at) not in moments and (len(moments) == request.most or values >= MOST_VALUES):
                break
            moments.setdefault(int(at), {})[names[id]] = value
            values += 1
        updates = [
            MetricUpdate(
                model_id=request.model_id, timestamp=batch.to_text(at), metrics=moments[at]
            )
            for at in reversed(moments)
        ]
        return History(updates=updates, complete=values == len(rows))

    async def find_model(self, request: ModelRequest) -> KnownModel:
        """Raises NotFound, also for another account's."""
        numbers = await self.series.of_model(current.get().account, request.model_id)
        return KnownModel(metrics=sorted(numbers))

    async def list_alerts(self, request: AlertsRequest) -> Alerts:
        return await incidents.list_alerts(self.database, current.get().account, request)

    async def list_rules(self, _: Nothing) -> Rules:
        return await self.rules.all(current.get().account)

    async def add_rule(self, request: NewRule) -> Rule:
        return await self.rules.add(current.get().account, request)

    async def remove_rule(self, request: RuleRequest) -> Nothing:
        return await self.rules.remove(current.get().account, request)


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
